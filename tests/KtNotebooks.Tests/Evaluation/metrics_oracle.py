"""The oracle of MetricsOracleTests: jieba and NLTK themselves, row by row.

Input: lines of {"predict": ..., "label": ...}; output: a line for each with the words of both and the scores in percent, rounded as LLaMA-Factory does.
ROUGE is written out here from its description (rouge_chinese is in no Debian package): sets of n-grams, LCS over all words, F1 with 1e-8.
"""

import json
import logging
import re
import sys

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

jieba.setLogLevel(logging.ERROR)
METHOD3 = SmoothingFunction().method3
WEIGHTS = [(1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1 / 3, 1 / 3, 1 / 3, 0), (1 / 4,) * 4]


def words_of(joined):
    for pattern in ("([。！？?])([^”’])", r"(\.{6})([^”’])", "(…{2})([^”’])", "([。！？?][”’])([^，。！？?])"):
        joined = re.sub(pattern, r"\1" + "\n" + r"\2", joined)
    sentences = [s for s in joined.rstrip().split("\n") if s]
    return [word for s in sentences for word in (s.split() or [""])]


def f1(precision, recall):
    return 2 * (precision * recall / (precision + recall + 1e-8))


def rouge_n(hypothesis, reference, n):
    h = {tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)}
    r = {tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)}
    return f1(len(h & r) / len(h) if h else 0, len(h & r) / len(r) if r else 0)


def rouge_l(hypothesis, reference):
    table = [[0] * (len(reference) + 1) for _ in range(len(hypothesis) + 1)]
    for i, a in enumerate(hypothesis):
        for j, b in enumerate(reference):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return f1(table[-1][-1] / len(hypothesis), table[-1][-1] / len(reference))


for line in sys.stdin:
    row = json.loads(line)
    hypothesis, reference = jieba.lcut(row["predict"]), jieba.lcut(row["label"])
    result = {"predict": hypothesis, "label": reference}
    if "only words" not in row:
        scores = [sentence_bleu([list(row["label"])], list(row["predict"]), smoothing_function=METHOD3)]
        if " ".join(hypothesis).split() and " ".join(reference).split():
            h, r = words_of(" ".join(hypothesis)), words_of(" ".join(reference))
            scores += [rouge_n(h, r, 1), rouge_n(h, r, 2), rouge_l(h, r)]
            scores += [sentence_bleu([reference], hypothesis, weights, METHOD3) for weights in WEIGHTS]
        else:
            scores += [0] * 7
        result["scores"] = [round(100 * score, 4) for score in scores]
    print(json.dumps(result))
