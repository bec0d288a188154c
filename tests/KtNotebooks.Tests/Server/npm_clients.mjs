// The official npm clients against our server: node npm_clients.mjs NODE_MODULES URL KEY. Prints one JSON object; throws where anything is not as it should be.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, url, key] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modules + '/'));
const OpenAI = require('openai').default ?? require('openai');
const Anthropic = require('@anthropic-ai/sdk').default ?? require('@anthropic-ai/sdk');
const openai = new OpenAI({ baseURL: url + 'v1', apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url.replace(/\/$/, ''), apiKey: key, maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const model = 'kt-tiny';
const weather = { name: 'weather', description: 'of a city', parameters: { type: 'object', properties: { city: { enum: ['Paris', 'Rome'] } }, required: ['city'] } };

const whole = await openai.chat.completions.create({ model, messages, temperature: 0 });
assert.match(whole.choices[0].message.content, /Paris/);
let text = '', usage = null;
for await (const chunk of await openai.chat.completions.create({ model, messages, temperature: 0, stream: true, stream_options: { include_usage: true } })) {
  assert.equal(chunk.object, 'chat.completion.chunk');
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const called = await openai.chat.completions.create({ model, messages, max_tokens: 60, tools: [{ type: 'function', function: weather }], tool_choice: 'required' });
assert.equal(called.choices[0].finish_reason, 'tool_calls');
assert.ok(['Paris', 'Rome'].includes(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).city));

const made = await openai.chat.completions.create({ model, messages, max_tokens: 30, temperature: 1.5, response_format: { type: 'json_schema',
  json_schema: { name: 'x', strict: true, schema: { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'], additionalProperties: false } } } });
assert.ok(Number.isInteger(JSON.parse(made.choices[0].message.content).n));

const completed = await openai.completions.create({ model, prompt: 'User: What is the capital of France?\n\nAssistant:', max_tokens: 24, temperature: 0, logprobs: 2 });
assert.match(completed.choices[0].text, /Paris/);
assert.equal(completed.choices[0].logprobs.tokens.length, completed.usage.completion_tokens);

const response = await openai.responses.create({ model, input: 'What is the capital of France?', temperature: 0 });
assert.match(response.output_text, /Paris/);
let said = '', types = [];
for await (const event of await openai.responses.create({ model, input: 'What is the capital of France?', temperature: 0, stream: true })) {
  types.push(event.type);
  if (event.type === 'response.output_text.delta') said += event.delta;
}
assert.equal(said, response.output_text);
assert.equal(types.at(-1), 'response.completed');

const message = await anthropic.messages.create({ model, max_tokens: 24, messages });
assert.equal(message.content[0].type, 'text');
const final = await anthropic.messages.stream({ model, max_tokens: 60, messages, tools: [{ name: 'weather', input_schema: weather.parameters }],
  tool_choice: { type: 'any' } }).finalMessage();
assert.equal(final.stop_reason, 'tool_use');
assert.ok(['Paris', 'Rome'].includes(final.content.at(-1).input.city));
assert.ok((await anthropic.messages.countTokens({ model, messages })).input_tokens > 5);

await assert.rejects(openai.chat.completions.create({ model: 'gpt-5', messages }), e => e.status === 404 && e.code === 'model_not_found');
await assert.rejects(openai.chat.completions.create({ model, messages, audio: {} }), e => e.status === 400 && e.param === 'audio');
await assert.rejects(anthropic.messages.create({ model, max_tokens: 0, messages }), e => e.status === 400 && e.error.error.type === 'invalid_request_error');
console.log(JSON.stringify({ models: (await openai.models.list()).data.map(m => m.id) }));
