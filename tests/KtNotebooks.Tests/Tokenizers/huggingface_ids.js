// Hugging Face's own tokenizers library (through npm's @anush008/tokenizers) as the oracle of a test.
// node huggingface_ids.js MODULES TOKENIZER.json TEXTS.jsonl OUT.jsonl: for each line, a JSON string, writes {"ids": […], "text": "decoded again"} without added specials.
const fs = require("fs");
const path = require("path");
const [modules, tokenizerFile, textsFile, outFile] = process.argv.slice(2);
const { Tokenizer } = require(path.join(modules, "@anush008/tokenizers"));

(async () => {
  const tokenizer = Tokenizer.fromFile(tokenizerFile);
  const out = [];
  for (const line of fs.readFileSync(textsFile, "utf8").split("\n")) {
    const encoding = await tokenizer.encode(JSON.parse(line), null, { addSpecialTokens: false });
    const ids = encoding.getIds();
    out.push(JSON.stringify({ ids, text: await tokenizer.decode(ids, false) }));
  }
  fs.writeFileSync(outFile, out.join("\n") + "\n");
})();
