"""Writes expected.json: what Jinja2 makes of the templates here and of short pieces, in an environment set up as transformers sets up its own
(utils/chat_template_utils.py: trim_blocks, lstrip_blocks, loop controls, tojson without ASCII escapes). Run: python3 make.py"""
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = raise_exception
    return env


TOOLS = [{"type": "function", "function": {"name": "weather", "description": "The weather of a place", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "The place"}, "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "days": {"type": "array", "items": {"type": "integer"}}, "either": {"oneOf": [{"type": "string"}, {"type": "number"}]}}}}}]
USER = [{"role": "user", "content": "Wie geht's? 你好 <3"}]
TALK = USER + [{"role": "assistant", "content": "<think>\nhm\n</think>\n\nGood \"day\"."}, {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "<think>\nwell\n</think>\n\nFine."}]
CALL = [{"role": "system", "content": "Be brief."}] + USER + [
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "functions.weather:0", "function": {
        "name": "weather", "arguments": {"city": "Zürich", "days": [1, 2], "deep": {"x": 1.5, "y": None, "z": True}}}}]},
    {"role": "tool", "content": "{\"sky\": \"grey\"}", "name": "weather", "tool_call_id": "functions.weather:0"}]
TEXT_CALL = [dict(m, content=None, tool_calls=[dict(c, function=dict(c["function"], arguments=json.dumps(c["function"]["arguments"], ensure_ascii=False)))
    for c in m["tool_calls"]]) if "tool_calls" in m else m for m in CALL]

PIECES = [
    "{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}",
    "{{ 'a' if false }}|{{ 1 if none else 2 }}", "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 7 / 2 }} {{ 1 + 2 * 3 - 4 }}", "{{ 'a' ~ 1 ~ none ~ true }}",
    "{{ [1, 'b', none, 2.0, true] }} {{ {'a': 1, 'b': [\"it's\"]} }}", "{{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ [1,2,3,4][-2:] }} {{ 'abc'[-1] }}",
    "{{ '  x '|trim }}.{{ 'a b c'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}", "{{ 'hello world'|title }} {{ 'hELLO'|capitalize }} {{ 'x'|upper }}",
    "{{ [3,1,2]|sort }} {{ [3,1,2]|sort(reverse=true) }} {{ ['b','A','c']|sort }}", "{{ {'b': 1, 'a': 2}|dictsort|tojson }} {{ {'b': 1}|items|list|tojson }}",
    "{{ [{'n': 'a', 'v': 1}, {'n': 'b', 'v': 0}]|selectattr('v')|map(attribute='n')|join('-') }}",
    "{{ [{'n': 'a', 'v': 1}, {'n': 'b', 'v': 2}]|rejectattr('v', 'equalto', 2)|list|length }}", "{{ [1,2,3,4]|select('even')|list }}{{ [1,2,3]|reject('gt', 1)|list }}",
    "{{ x|default('d') }} {{ ''|default('e', true) }} {{ x is defined }} {{ x is undefined }} {{ none is none }}", "{{ 1 is number }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}",
    "{% set a, b = 1, 2 %}{{ a + b }}{% set c %}x{{ a }}y{% endset %}{{ c }}", "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% set n = 0 %}{% for i in range(4) %}{% set n = n + 1 %}{% endfor %}{{ n }}", "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% macro f(a, b='q') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for x in [1,2,3,4] if x is odd %}{{ loop.index }}:{{ x }} {{ loop.length }} {% endfor %}", "{{ {'a': {'b': [1, {'c': 2}]}}.a.b[1].c }}", "{{ {'items': 5}['items'] }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "  {%- if true -%}  x  {%- endif -%}  y", "{# note #}\nx {#- y -#} z", "{{ 'a' }}\n{{ 'b' }}\n", "  {% if true %}x{% endif %}  {% if true %}\ny{% endif %}\n",
    "{% raw %}{{ x }}{% endraw %}", "{{ \"tab\\tquote\\\" \\u00e9\" }}", "{{ {'ü': [1, 2.5, null_, true], 's': 'a\"b\\n'}|tojson }}", "{{ {'a': [1], 'b': {}}|tojson(indent=2) }}",
    "{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}", "{{ not false and (true or false) }} {{ 1 in [1] }} {{ 'b' not in 'abc' }} {{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }}",
    "{% generation %}x{% endgeneration %}", "{% filter upper %}abc{% endfilter %}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", "{{ 'x'.replace('x', 'y') }}{{ 'aaa'|replace('a', 'b', 2) }}",
    "{{ 'a-b'.split('-')|last }}{{ [1,2]|first }}{{ []|first }}", "{{ 'abc'|length }}{{ [1,2]|count }}", "{{ 3.0 }} {{ 1e3 if false else 2.50 }} {{ '3'|int + 1 }} {{ 3.7|int }}", "{{ 'a\nb'|indent(2) }}|{{ 'a\nb'|indent(2, true) }}",
    "{{ ('a', 'b') }}"[:0] + "{{ ['x', 'y', 'x']|unique|list }}", "{{ 'ab'|list }} {{ 'ab'|reverse }}", "{{ loop is defined }}", "{{ 'Ab'.lower() + 'Ab'.upper() }}{{ 'abc'.find('c') }}{{ 'abc'.endswith(('b', 'c')) }}", "{{ 'x' * 3 }}{{ [1] + [2] }}",
    "{{ dict(a=1).get('b', 'no') }}{{ {'a': none}.get('a') }}", "{%+ if true %} x{% endif %}", "{% if true +%}\nx{% endif %}", "{{ -1|abs }} {{ 5 is divisibleby 5 }} {{ 5 is not none }}",
]


def main():
    here, env, cases = pathlib.Path(__file__).parent, environment(), []
    for file in sorted(here.glob("*.jinja")):
        for name, messages in (("user", USER), ("talk", TALK), ("call", TEXT_CALL if file.stem == "deepseek_r1" else CALL)):
            for more in ({}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False}):
                if file.stem == "deepseek_v2" and name == "call":
                    continue
                values = {"messages": messages, "bos_token": "<bos>", "eos_token": "<eos>", "add_generation_prompt": False, **more}
                if name == "call":
                    values["tools"] = TOOLS
                cases.append({"template": file.name, "name": f"{file.stem} {name} {json.dumps(more)}", "values": values,
                    "text": env.from_string(file.read_text()).render(**values)})
    pieces = [{"template": piece, "text": env.from_string(piece).render(null_=None)} for piece in PIECES]
    (here / "expected.json").write_text(json.dumps({"templates": cases, "pieces": pieces}, ensure_ascii=False, indent=1) + "\n")


main()
