"""Goal:   whatever a provider does, in whichever dialect, whoever listens in whichever format is told
        the same truth, and pays exactly what it is worth.
Method: every fault of the simulated provider in each dialect that it speaks, watched in each format
        that clients choose: the text, how it ended, and the charge, all exact.  docs/streams.md
        has the table.  The cases run side by side.

A charge is by the provider's usage where that came and can be believed, else by our own count: that
of a text is taken from a stream of the same text whose provider reports nothing.
"""
import concurrent.futures
import http.client
import json
import os
import unittest
import urllib.parse

from tolld import (PRICE_CACHED, PRICE_COMPLETION, PRICE_PROMPT, ROOT, SLOW, Case, Stream,
                   Tolld, cost, micro, wait_for)

DIALECTS = ("openai", "ollama", "anthropic")
FORMATS = ("typed", "openai", "content", "text")
ALL, N = 40, 12           # tokens of an answer; after so many comes the fault
PROMPT, CACHED = 20, 8    # what the provider reports
LITERAL = "Gr\u00fc\u00dfe \U0001f600 \u4f60\u597d, \"ol\u00e9\"!\n\\ \u0410\u0411 {x: [1]}"
BASE = f"sim:prompt={PROMPT},cached={CACHED},lang=even"
WAIT = int(9 * SLOW)      # seconds: two time-outs of the configuration


class Expect:
    """What must come of a case: how it ends, how many tokens of text, and what is charged."""

    def __init__(self, script, end, tokens, charge, **fields):
        self.script = script
        self.end = end          # a finish_reason, or the code of an error
        self.tokens = tokens    # of text, or the text itself
        self.charge = charge    # "usage" (of that many tokens), "count", "none"; or by dialect
        self.fields = fields
        self.fails_first = charge == "none"

    def charge_in(self, dialect):
        return self.charge if isinstance(self.charge, str) else self.charge[dialect]


def answer(extra="", end="stop", tokens=ALL, charge="usage", **fields):
    return Expect(f"{BASE},tokens={ALL}{extra}", end, tokens, charge, **fields)


def faulty(fault, end, tokens=N, charge="count"):
    return Expect(f"{BASE},tokens={ALL},fault={fault}", end, tokens, charge)


def refused(script, code="upstream_error"):
    return Expect(f"{BASE},{script}", code, 0, "none")


FFFD = "\ufffd"
CASES = {
    # Time-outs first: the others run while they wait.
    "stall": faulty(f"stall@{N}", "upstream_timeout"),
    "stall, nothing said": refused("fault=stall", "upstream_timeout"),
    # Good ones, said in all ways.
    "good": answer(),
    "length": answer(end="length", tokens=N, max_tokens=N),
    "CRLF, comments": answer(",eol=crlf,comments=1"),
    "cut into bytes": answer(",split=1"),
    "many in a chunk": answer(",batch=3,pack=4"),
    "end by closing": answer(",close=1"),
    "no first event": answer(",role=0", charge={"openai": "usage", "ollama": "usage",
                                                "anthropic": "no start"}),
    "literal, split": Expect(f"{BASE},split=5,text={urllib.parse.quote(LITERAL)}", "stop",
                             LITERAL, "reported"),
    # Usage.
    "no usage": answer(",usage=no", charge="count"),
    "no usage, short": Expect(f"{BASE},tokens={N},usage=no", "stop", N, "count"),
    "zero usage": answer(",usage=zero", charge="count"),
    "negative usage": answer(",usage=neg", charge="count"),
    "huge usage": answer(",usage=huge", charge="count"),
    "usage over the limit": answer(",usage=over:1000000", charge="count"),
    "usage under": answer(",usage=under:5", charge="usage of 35"),
    # What breaks off.
    "cut": faulty(f"cut@{N}", "upstream_truncated"),
    "reset": faulty(f"reset@{N}", "upstream_truncated"),
    "no end mark": faulty("nodone", "upstream_truncated", ALL,
                          {"openai": "usage", "ollama": "count", "anthropic": "usage"}),
    "no finish reason": faulty("nofinish", "stop", ALL,
                               {"openai": "usage", "ollama": "usage", "anthropic": "count"}),
    "two end marks": faulty("dupdone", "stop", ALL, "usage"),
    "wrong length": answer(",badlen=1"),
    # What is not what it should be.
    "garbage": faulty(f"garbage@{N}", "stop", ALL, "usage"),
    "bad UTF-8": faulty(f"badutf8@{N}", "stop", (N, " " + FFFD * 4, ALL - N), "usage"),
    "half a character": faulty(f"halfutf8@{N}", "stop", (N, " " + FFFD, 0), "usage of 12"),
    "giant line": faulty(f"giant@{N}", "upstream_error"),
    "error": faulty(f"error@{N}", "upstream_error"),
    "error, then the end mark": faulty(f"errordone@{N}", "upstream_error"),
    # Nothing said.
    "cut, nothing said": refused("fault=cut"),
    "error, nothing said": refused("fault=error"),
    "empty body": refused("empty=1"),
    "HTML, 502": refused("html=1"),
    "HTML, 200": refused("html=1,status=200"),
    "JSON error, 200": refused("json200=1"),
    "status 400": refused("status=400"),
    "status 401": refused("key=another"),
    "status 429": refused("status=429,retryafter=1", "overloaded"),
    "status 500": refused("status=500"),
}


def model_of(name, dialect):
    return f"{dialect} {name}"


def configuration(port):
    """A provider for each dialect, and one of its own for whatever fails before its first token."""
    base = {"openai": f"http://127.0.0.1:{port}/v1", "ollama": f"http://127.0.0.1:{port}",
            "anthropic": f"http://127.0.0.1:{port}/"}
    providers, models = {}, ""
    for dialect in DIALECTS:
        for name, case in CASES.items():
            provider = model_of(name, dialect) if case.fails_first else dialect
            providers[provider] = dialect
            models += f'''
model "{model_of(name, dialect)}" {{
    provider = {{"{provider}"}}
    upstream = "{case.script}"
    tokenizer = "estimate"
    price_prompt = {PRICE_PROMPT / 1e6}  price_cached = {PRICE_CACHED / 1e6}
    price_completion = {PRICE_COMPLETION / 1e6}
    context = 1000000  max_completion = 100000
}}
'''
    return "".join(f'''
provider "{name}" {{
    dialect = "{dialect}"
    base_url = "{base[dialect]}"
    api_key = "provider-secret-key"
    retries = 0
    breaker_failures = 0
}}
''' for name, dialect in providers.items()) + models


class Seen:
    """What a client saw: the text, and a finish_reason or an error's code."""

    def __init__(self, text, end):
        self.text, self.end = text, end


def watch_typed(stream):
    events = list(stream.typed())
    assert [e["type"] in ("done", "error") for e in events].count(True) == 1, events[-2:]
    last = events[-1]
    text = "".join(e["data"]["token"] for e in events if e["type"] == "token")
    if last["type"] == "done":
        assert last["data"]["full_text"] == text, last
        return Seen(text, last["data"]["finish_reason"])
    return Seen(text, last["data"]["error"]["code"])


def watch_openai(stream):
    if stream.status != 200:
        # Nothing was said: the failure is the status.
        return Seen("", json.loads(stream.response.read())["error"]["code"])
    data = [d for _, d in stream.events()]
    good = data[-1] == "[DONE]"
    assert data.count("[DONE]") == good, data[-3:]
    chunks = [json.loads(d) for d in data[:-1] if d != "[DONE]"]
    text = "".join(c["delta"].get("content") or "" for x in chunks for c in x.get("choices", []))
    if good:
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"], chunks[-1]
        return Seen(text, chunks[-2]["choices"][0]["finish_reason"])
    return Seen(text, json.loads(data[-1])["error"]["code"])


def watch_content(stream):
    data = [d for _, d in stream.events()]
    text = "".join(json.loads(d)["content"] for d in data[:-1])
    if data[-1] == "[DONE]":
        return Seen(text, None)
    return Seen(text, json.loads(data[-1])["error"]["code"])


def watch_text(stream):
    """Bare text has no words for an end; a bad one breaks off."""
    data = b""
    try:
        while piece := stream.response.read1(65536):
            data += piece
    except (http.client.IncompleteRead, ConnectionError):
        return Seen(data.decode(), "broken off")
    return Seen(data.decode(), None)


WATCH = {"typed": watch_typed, "openai": watch_openai, "content": watch_content,
         "text": watch_text}


class FaultMatrix(Case):
    @classmethod
    def setUpClass(cls):
        cls.t = Tolld(workers=2, ledger="slice_tokens = 50",
                      timeouts=f"connect = {WAIT} first_token = {WAIT} idle = {WAIT}")
        cls.t.extra = (configuration(cls.t.sim.port),) + cls.t.extra[1:]
        cls.t.write_config()
        try:
            cls.t.start()
        except BaseException:
            print(cls.t.log())
            cls.t.close()
            raise
        cls.key = cls.t.account("alice", "100000")
        cls.prompt = cls.t.request("POST", "/chat/preview", {
            "model": model_of("good", "openai"), "message": "hello"}, cls.key)[2]["prompt_tokens"]
        # What our own count makes of these texts.
        cls.text, cls.count = {}, {}
        for tokens, name in ((N, "no usage, short"), (ALL, "no usage")):
            data = cls.t.run(cls.key, "hello", model_of(name, "openai"))[-1]["data"]
            cls.text[tokens] = data["full_text"]
            cls.count[tokens] = data["usage"]["completion_tokens"]
            assert len(data["full_text"]) == 5 * tokens, data

    def wanted_text(self, tokens):
        if isinstance(tokens, str):
            return tokens
        if isinstance(tokens, tuple):
            before, odd, after = tokens
            whole = self.text[ALL]
            return whole[:5 * before] + odd + whole[5 * before:5 * (before + after)]
        return self.text[tokens] if tokens else ""

    def wanted_charge(self, case, dialect, data):
        kind = case.charge_in(dialect)
        # Ollama says nothing of its cache.
        cached = 0 if dialect == "ollama" else CACHED
        if kind == "none":
            return 0
        if kind == "usage":
            return cost(PROMPT - cached, case.tokens if isinstance(case.tokens, int) else ALL,
                        cached)
        if kind.startswith("usage of "):
            return cost(PROMPT - cached, int(kind[9:]), cached)
        if kind == "reported":  # as many as the provider counted of a literal text
            return cost(PROMPT - cached, data["usage"]["completion_tokens"], cached)
        if kind == "no start":  # message_start has the prompt: without it none was reported
            return cost(self.prompt, self.count[ALL])
        return cost(self.prompt, self.count[case.tokens])

    def run_case(self, name, dialect, fmt):
        """A line for what went wrong, or None; and the charge."""
        case = CASES[name]
        wanted = Seen(self.wanted_text(case.tokens), case.end)
        failed = case.end not in ("stop", "length")
        if fmt == "text":
            wanted.end = "broken off" if failed else None
        elif fmt == "content" and not failed:
            wanted.end = None
        sent = self.t.send(self.key, "hello", model_of(name, dialect),
                           stream_options={"include_usage": True}, **case.fields)
        stream = Stream(self.t.port, f"/stream?id={sent['stream_id']}&format={fmt}",
                        timeout=60)
        seen = WATCH[fmt](stream)
        stream.close()
        again = self.t.open(sent["stream_id"])
        data = list(again.typed())[-1]["data"]
        again.close()
        charged = micro(data["cost"])
        should = self.wanted_charge(case, dialect, data)
        where = f"{name}: {dialect} in, {fmt} out"
        if "provider-secret-key" in json.dumps(data):
            return f"{where}: the key is shown", charged
        if (seen.text, seen.end) != (wanted.text, wanted.end):
            return f"{where}: {seen.end} {seen.text!r}, not {wanted.end} {wanted.text!r}", charged
        if charged != should:
            return f"{where}: charged {charged}, not {should}: {data}", charged
        return None, charged

    def test_documented(self):
        """docs/streams.md has a row for each case."""
        with open(os.path.join(ROOT, "docs", "streams.md")) as f:
            rows = [line[2:].split(" |")[0].split(" (")[0] for line in f if line.startswith("| ")]
        self.assertEqual(sorted(set(CASES) - set(rows)), [])

    def test_matrix(self):
        before = micro(self.t.show("alice")["balance"])
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            runs = [pool.submit(self.run_case, name, dialect, fmt)
                    for name in CASES for dialect in DIALECTS for fmt in FORMATS]
            results = [r.result() for r in runs]
        wrong = [r for r, _ in results if r]
        self.assertFalse(wrong, f"{len(wrong)} wrong:\n" + "\n".join(wrong))
        self.assertEqual(len(results), len(CASES) * 12)
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.assertEqual(before - micro(self.t.show("alice")["balance"]),
                         sum(c for _, c in results))
        self.t.audit()
        self.defects_are_counted()
        self.the_providers_were_asked_properly()

    def defects_are_counted(self):
        metrics = self.t.metrics()
        for dialect in DIALECTS:
            def defects(kind):
                return metrics.get(f'tolld_stream_defects_total{{provider="{dialect}",'
                                   f'kind="{kind}"}}')
            self.assertEqual(defects("json"), len(FORMATS), dialect)       # garbage
            self.assertEqual(defects("utf8"), 2 * len(FORMATS), dialect)   # bad, half
            self.assertEqual(defects("oversize"), len(FORMATS), dialect)   # giant
            self.assertEqual(defects("truncated"), 3 * len(FORMATS), dialect)

    def the_providers_were_asked_properly(self):
        """With a key, the token limit, and a request for usage, in each dialect."""
        seen = self.t.sim.requests()
        for dialect in DIALECTS:
            mine = [r for r in seen if r["dialect"] == dialect]
            self.assertGreaterEqual(len(mine), len(CASES) * len(FORMATS))
            self.assertTrue(all(r["auth"] and r["stream"] and r["include_usage"] for r in mine))
            self.assertEqual({r["max_tokens"] for r in mine}, {N, 100000})


if __name__ == "__main__":
    unittest.main()
