"""Goal:   a provider that fails before its first token is asked again, or another one is, within
        bounds; the client gets one stream, the truth about who answered, and one charge.
Method: providers that answer each attempt from a script and remember what they were sent.
"""
import concurrent.futures
import json
import time
import unittest

from provider import DONE, FINISH, Answer, Provider, event, good, status, text
from tolld import SLOW, Tolld, cost, end_of, free_port, micro, text_of, wait_for

PRICES = "price_prompt = 0.15 price_cached = 0.075 price_completion = 0.60\n" \
         "context = 1000000 max_completion = 100000"
HTML = Answer("<html><h1>Bad gateway</h1></html>", 200, "text/html", end="length")


class Retry(unittest.TestCase):
    FIRST_TOKEN = 4

    @classmethod
    def setUpClass(cls):
        cls.a, cls.b = Provider(), Provider()
        cls.dead = free_port()

        def provider(name, urls, keys="", more=""):
            return (f'provider "{name}" {{\n base_url = {{{urls}}}\n {keys}\n {more}\n}}\n'
                    f'model "{name}" {{ provider = {{"{name}"}}\n upstream = "m"\n{PRICES} }}\n')

        def model(name, *providers):
            names = ", ".join(f'"{p}"' for p in providers)
            return f'model "{name}" {{ provider = {{{names}}}\n upstream = "m"\n{PRICES} }}\n'
        a, b = (f'"http://127.0.0.1:{p.port}/v1"' for p in (cls.a, cls.b))
        dead = f'"http://127.0.0.1:{cls.dead}"'
        never = "breaker_failures = 0"
        cls.t = Tolld(sim=False, ledger="slice_tokens = 50 reconnect_grace = 1",
                      timeouts=f"connect = 2 first_token = {cls.FIRST_TOKEN} idle = 2",
                      config=provider("a", a, 'api_key = "key-of-a-0123456789"', never) +
                      provider("b", b, 'api_key = "key-of-b-0123456789"', never) +
                      provider("stubborn", a, "", "retries = 10 " + never) +
                      provider("once", a, "", "retries = 0 " + never) +
                      provider("dead", dead, "", never) +
                      provider("urls", f"{dead}, {b}", "", never) +
                      provider("keys", a, 'api_key = {"k1-0123456789", "k2-0123456789"}', never) +
                      provider("fuse", a, "",
                               "retries = 0 breaker_failures = 3 breaker_seconds = 3") +
                      model("two", "a", "b") + model("dead-b", "dead", "b") +
                      model("fuse-b", "fuse", "b"))
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.a.close)
        cls.addClassCleanup(cls.b.close)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")

    def setUp(self):
        self.a.reset()
        self.b.reset()

    def tearDown(self):
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()
        self.assertNotIn("0123456789", self.t.log())

    def balance(self):
        return micro(self.t.show("alice")["balance"])

    def run_good(self, model, provider):
        """One stream that must end well, charged once: its events."""
        before = self.balance()
        events = self.t.run(self.key, "hello", model)
        kind, end = end_of(events)
        self.assertEqual((kind, end.get("finish_reason"), text_of(events)),
                         ("done", "stop", "good answer"), end)
        self.assertEqual(end["provider"], provider)
        self.assertEqual(sum(e["type"] == "metadata" for e in events), 1)
        self.assertEqual((micro(end["cost"]), before - self.balance()), (cost(9, 3),) * 2)
        return events

    def run_bad(self, model, code, kind):
        """One stream that must fail before its first token and cost nothing: the error."""
        before = self.balance()
        events = self.t.run(self.key, "hello", model)
        what, end = end_of(events)
        self.assertEqual((what, end.get("error", {}).get("code"), end["error"].get("kind")),
                         ("error", code, kind), end)
        self.assertEqual((micro(end["cost"]), before - self.balance(), text_of(events)),
                         (0, 0, ""))
        return end

    # Again.

    def test_again_after_what_may_pass(self):
        for failure in (status(500), status(503), status(529), status(408), HTML,
                        Answer("", 200), Answer("", 200, end="cut"),
                        Answer("", 200, end="close"), Answer(FINISH, 200, end="cut"),
                        Answer(json.dumps({"error": {"message": "no"}}), 200, "application/json"),
                        Answer(event(error={"message": "overloaded"}))):
            with self.subTest(failure.bytes()):
                self.a.reset(failure)
                self.run_good("a", "a")
                self.assertEqual(len(self.a.seen), 2)
                self.assertEqual(self.a.seen[0].body, self.a.seen[1].body)

    def test_counts(self):
        before = self.t.metrics()
        self.a.reset(status(500), status(500))
        self.run_good("a", "a")
        after = self.t.metrics()
        for name, n in (('tolld_upstream_errors_total{provider="a",kind="server_error"}', 2),
                        ('tolld_upstream_retries_total{provider="a"}', 2),
                        ('tolld_streams_total{model="a",outcome="stop"}', 1)):
            self.assertEqual(after[name] - before.get(name, 0), n, name)
        # Backoff: the second pause is longer than half of the first.
        gaps = [y.at - x.at for x, y in zip(self.a.seen, self.a.seen[1:])]
        self.assertGreater(gaps[0], 0.12)
        self.assertGreater(gaps[1], 0.24)

    def test_health(self):
        """Every stream, however many calls it took, is one in the histograms and one log line."""
        names = ("tolld_time_to_first_token_seconds_count{model=\"a\"}",
                 "tolld_gateway_overhead_seconds_count", "tolld_stream_duration_seconds_count",
                 "tolld_upstream_chunks_total{provider=\"a\"}",
                 "tolld_stream_defects_total{provider=\"a\",kind=\"truncated\"}")
        before = self.t.metrics()
        size = before.get("tolld_upstream_bytes_total{provider=\"a\"}", 0)
        cut = Answer(FINISH, 200, end="cut")
        self.a.reset(Answer("", 200, end="cut"), cut)
        self.run_good("a", "a")
        after = self.t.metrics()
        # The cut one's event with the finish reason, and the five of the good one.
        self.assertEqual([after[x] - before.get(x, 0) for x in names], [1, 1, 1, 6, 2])
        self.assertEqual(after["tolld_upstream_bytes_total{provider=\"a\"}"] - size,
                         len(cut.body) + len(good().body))
        lines = wait_for(lambda: [x for x in self.t.log().splitlines() if "stream ended" in x and
                                  "attempts=3" in x and "model=a" in x], 5, "the stream's line")
        fields = dict(x.split("=", 1) for x in lines[-1].split() if "=" in x)
        self.assertTrue(fields["request"].startswith("req_"))
        self.assertEqual([fields[x] for x in ("account", "provider", "outcome", "reported",
                                              "tokens", "chunks", "cost")],
                         ["alice", "a", "stop", "3", "9+3", "6", "0.000004"])
        self.assertGreater(int(fields["counted"]), 0)
        self.assertGreaterEqual(int(fields["ms"]), int(fields["first_token_ms"]))

    def test_never_again_for_the_requests_fault(self):
        for code in (400, 413, 415, 418, 422):
            self.a.reset(status(code, "too many cooks"))
            end = self.run_bad("two", "upstream_error", "status")
            self.assertEqual(end["error"]["message"], "too many cooks")
            self.assertEqual((end["provider"], len(self.a.seen), len(self.b.seen)), ("a", 1, 0))

    def test_retries_are_bounded(self):
        self.a.default = status(500)
        began = time.monotonic()
        self.run_bad("stubborn", "upstream_error", "server_error")
        self.assertLessEqual(len(self.a.seen), 12)
        self.assertGreater(len(self.a.seen), 2)
        self.assertLess(time.monotonic() - began, self.FIRST_TOKEN + 20 * SLOW)
        self.a.reset()
        self.a.default = status(500)
        self.run_bad("a", "upstream_error", "server_error")
        self.assertEqual(len(self.a.seen), 3)

    def test_nothing_after_the_first_token(self):
        for end, code, kind in (("cut", "upstream_truncated", "truncated"),
                                ("close", "upstream_truncated", "truncated")):
            self.a.reset(Answer(text("first words"), end=end))
            events = self.t.run(self.key, "hello", "two")
            what, last = end_of(events)
            self.assertEqual((what, last["error"]["code"], last["error"]["kind"]),
                             ("error", code, kind))
            self.assertEqual((text_of(events), len(self.a.seen), len(self.b.seen)),
                             ("first words", 1, 0))
            self.assertGreater(micro(last["cost"]), 0)

    def test_reasoning_is_a_first_token(self):
        self.a.reset(Answer(event(choices=[{"index": 0, "delta": {"reasoning_content": "hm"}}]),
                            end="cut"))
        what, last = end_of(self.t.run(self.key, "hello", "two"))
        self.assertEqual((what, last["error"]["code"]), ("error", "upstream_truncated"))
        self.assertEqual((len(self.a.seen), len(self.b.seen)), (1, 0))

    def test_what_an_attempt_left_is_forgotten(self):
        """A usage, a finish or half an event of a failed attempt is not the next one's."""
        self.a.reset(Answer(event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 900,
                                                     "total_tokens": 905}) + "data: {\"cho",
                            end="cut"))
        self.run_good("a", "a")

    # Others.

    def test_next_provider(self):
        for failure in (status(401), status(402), status(403), status(404), status(501),
                        status(302, Location=f"http://127.0.0.1:{self.dead}/")):
            with self.subTest(failure.code):
                self.a.reset(failure)
                self.b.reset()
                self.run_good("two", "b")
                self.assertEqual((len(self.a.seen), len(self.b.seen)), (1, 1))
                self.assertEqual([x.seen[0].key for x in (self.a, self.b)],
                                 ["key-of-a-0123456789", "key-of-b-0123456789"])

    def test_next_provider_after_the_retries(self):
        self.a.default = status(503)
        self.run_good("two", "b")
        self.assertEqual((len(self.a.seen), len(self.b.seen)), (3, 1))

    def test_next_provider_for_a_dead_one(self):
        self.run_good("dead-b", "b")
        self.run_bad("dead", "upstream_error", "connect")

    def test_other_url(self):
        for _ in range(4):
            self.run_good("urls", "urls")
        self.assertEqual(len(self.b.seen), 4)

    def test_silent_provider_leaves_time_for_the_next(self):
        self.a.default = Answer(hang="before")
        began = time.monotonic()
        self.run_good("two", "b")
        self.assertGreater(time.monotonic() - began, self.FIRST_TOKEN / 2 - 0.3)
        self.assertEqual((len(self.a.seen), len(self.b.seen)), (1, 1))
        wait_for(lambda: self.a.seen[0].closed_at, 5, "the silent call to be closed")
        self.a.reset()
        self.a.default = Answer(event(choices=[]) + ": ping\n\n", hang="after")
        self.run_bad("a", "upstream_timeout", "first_token_timeout")

    # Retry-After.

    def test_retry_after_is_waited_for(self):
        self.a.reset(status(429, Retry_After=1))
        self.run_good("a", "a")
        self.assertGreater(self.a.seen[1].at - self.a.seen[0].at, 0.99)

    def test_retry_after_is_not_waited_for_while_there_is_another(self):
        self.a.reset(status(429, Retry_After=30))
        began = time.monotonic()
        self.run_good("two", "b")
        self.assertLess(time.monotonic() - began, 20 * SLOW)

    def test_retry_after_is_bounded(self):
        self.a.default = status(429, Retry_After=3600)
        began = time.monotonic()
        end = self.run_bad("a", "overloaded", "rate_limit")
        self.assertEqual(end["error"]["retry_after"], 3600)
        self.assertLess(time.monotonic() - began, 20 * SLOW)
        self.assertEqual(len(self.a.seen), 1)

    def test_cancel_between_attempts(self):
        self.a.default = status(429, Retry_After=3)
        before = self.balance()
        sent = self.t.send(self.key, "hello", "a")
        s = self.t.open(sent["stream_id"])
        wait_for(lambda: self.a.seen, 5, "the first attempt")
        code, _, body = self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
        self.assertEqual((code, body["finish_reason"], body["cost"]), (200, "cancelled", 0))
        self.assertEqual(end_of(list(s.typed()))[0], "done")
        s.close()
        self.assertEqual((len(self.a.seen), self.balance()), (1, before))

    # Keys and load.

    def test_least_in_flight(self):
        self.a.default = Answer(text("one"), drip=text("more"))
        streams = []
        for _ in range(6):
            sent = self.t.send(self.key, "hello", "keys")
            streams.append((sent, self.t.open(sent["stream_id"])))
            next(e for e in streams[-1][1].typed() if e["type"] == "token")
        used = sorted(x.key for x in self.a.seen)
        self.assertEqual(used, ["k1-0123456789"] * 3 + ["k2-0123456789"] * 3)
        for sent, s in streams:
            self.t.request("DELETE", "/stream?id=" + sent["stream_id"])
            s.close()
        wait_for(lambda: all(x.closed_at for x in self.a.seen), 10, "the calls to be closed")

    def test_refused_key_gives_way_to_the_other(self):
        self.a.default = lambda seen: status(401) if seen.key.startswith("k1") else good()
        for _ in range(3):
            self.run_good("keys", "keys")
        self.assertIn("provider refuses the key", self.t.log())

    # The breaker.

    def test_breaker(self):
        opened = 'tolld_upstream_breaker_opened_total{provider="fuse"}'
        before = self.t.metrics().get(opened, 0)
        self.a.default = status(500)
        for _ in range(3):
            self.run_bad("fuse", "upstream_error", "server_error")
        self.assertEqual(self.t.metrics()[opened] - before, 1)
        # It is left alone now: at once somebody else, or a refusal.
        self.run_good("fuse-b", "b")
        end = self.run_bad("fuse", "overloaded", "breaker")
        self.assertNotIn("provider", end)
        self.assertEqual(len(self.a.seen), 3)
        # Then one call tries it, fails, and it is left alone for longer.
        wait_for(lambda: end_of(self.t.run(self.key, "hello", "fuse"))[1]["error"]["kind"] ==
                 "server_error", 5, "the probe")
        self.assertEqual(len(self.a.seen), 4)
        self.run_bad("fuse", "overloaded", "breaker")
        # Then one works.
        self.a.default = good()
        wait_for(lambda: end_of(self.t.run(self.key, "hello", "fuse"))[0] == "done", 8,
                 "the breaker to close")
        self.run_good("fuse", "fuse")

    def test_refused_keys_do_not_open_the_breaker(self):
        self.a.default = status(401)
        for _ in range(5):
            self.run_bad("fuse", "upstream_error", "auth")
        self.a.default = good()
        self.run_good("fuse", "fuse")

    # What goes out.

    def test_headers(self):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        _, _, sent = self.t.request(
            "POST", "/chat/send", {"model": "a", "message": "hi"}, self.key,
            {"traceparent": trace, "x-request-id": "req-of-mine", "Cookie": "c=1",
             "X-Forwarded-For": "1.2.3.4", "User-Agent": "me", "X-Api-Key": "mine",
             "OpenAI-Organization": "org", "Connection": "keep-alive, te", "TE": "trailers"})
        list(self.t.open(sent["stream_id"]).typed())
        got = self.a.seen[0]
        self.assertEqual(sorted(got.headers), [
            "accept", "authorization", "content-length", "content-type", "host", "traceparent",
            "user-agent", "x-request-id"])
        self.assertEqual((got.headers["traceparent"], got.headers["x-request-id"]),
                         (trace, "req-of-mine"))
        self.assertTrue(got.headers["user-agent"].startswith("tolld/"))
        self.assertIn("request=req-of-mine", self.t.log())
        for bad in (trace + "0", trace.upper(), "00-x", trace.replace("-", "_"), "ff" + trace[2:],
                    f"00-{'0' * 32}-{trace[36:]}", f"{trace[:36]}{'0' * 16}-01"):
            _, _, sent = self.t.request("POST", "/chat/send", {"model": "a", "message": "hi"},
                                        self.key, {"traceparent": bad})
            list(self.t.open(sent["stream_id"]).typed())
            self.assertNotIn("traceparent", self.a.seen[-1].headers)

    def test_large_request_goes_out_whole(self):
        message = "a long prompt \u6f22 " * 20000
        events = self.t.run(self.key, message, "a")
        self.assertEqual(end_of(events)[0], "done")
        self.assertEqual(self.a.seen[0].body["messages"][-1]["content"], message)

    def test_answer_before_the_request_was_whole(self):
        """The connection is of no use then, whatever the answer says."""
        self.a.reset(status(413))
        self.run_bad("once", "upstream_error", "status")
        self.run_good("once", "once")

    # format=openai: the status waits.

    def openai(self, model):
        sent = self.t.send(self.key, "hello", model)
        return self.t.request("GET", f"/stream?id={sent['stream_id']}&format=openai")

    def test_openai_statuses(self):
        for answer, want, code, kind in (
                (status(500, "boom"), 502, "upstream_error", "server_error"),
                (status(400, "bad"), 502, "upstream_error", "status"),
                (status(401), 502, "upstream_error", "auth"),
                (status(403), 502, "upstream_error", "auth"),
                (status(429, Retry_After=77), 503, "overloaded", "rate_limit"),
                (HTML, 502, "upstream_error", "protocol"),
                (Answer("", 200, end="length"), 502, "upstream_error", "truncated"),
                (Answer(hang="before"), 504, "upstream_timeout", "first_token_timeout")):
            with self.subTest(f"{answer.code} {kind}"):
                self.a.reset()
                self.a.default = answer
                got, headers, body = self.openai("once")
                self.assertEqual((got, body["error"]["code"], body["error"]["kind"]),
                                 (want, code, kind), body)
                self.assertEqual(headers["Content-Type"], "application/json")
                self.assertEqual(headers["x-tolld-provider"], "once")
                self.assertEqual(headers["Retry-After"], "77" if want == 503 else None)
        self.a.reset()
        got, headers, body = self.openai("once")
        self.assertEqual((got, headers["x-tolld-provider"]), (200, "once"))
        self.assertTrue(body.rstrip().endswith(b"data: [DONE]"))
        # After the first token it stays a 200, with an error and no [DONE].
        self.a.reset(Answer(text("begun") + event(error={"message": "died"}) + DONE))
        got, headers, body = self.openai("once")
        self.assertEqual((got, headers["x-tolld-provider"]), (200, "once"))
        self.assertNotIn(b"[DONE]", body)
        last = json.loads(body.rstrip().rsplit(b"data: ", 1)[1])
        self.assertEqual((last["error"]["message"], last["error"]["kind"]),
                         ("died", "error_event"))

    def test_openai_client_that_leaves_while_it_waits(self):
        self.a.default = Answer(hang="before")
        sent = self.t.send(self.key, "hello", "once")
        import socket
        with socket.create_connection(("127.0.0.1", self.t.port)) as s:
            s.sendall(f"GET /stream?id={sent['stream_id']}&format=openai HTTP/1.1\r\n"
                      "Host: x\r\n\r\n".encode())
            wait_for(lambda: self.a.seen, 5, "the call")
        wait_for(lambda: self.a.seen[0].closed_at, 10, "the call to be closed")

    def test_many_at_once(self):
        """Half of the calls fail: every stream ends well, each charged once."""
        self.a.default = good()
        self.a.script = [status(500) if i % 2 else good() for i in range(100)]
        before = self.balance()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            ends = list(pool.map(lambda _: end_of(self.t.run(self.key, "hello", "stubborn")),
                                 range(64)))
        self.assertEqual({k for k, _ in ends}, {"done"})
        self.assertEqual(before - self.balance(), 64 * cost(9, 3))


if __name__ == "__main__":
    unittest.main()
