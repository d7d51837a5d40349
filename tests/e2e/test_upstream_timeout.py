"""Goal:   each way in which a provider takes too long has its own bound, its own name in the error
        and in the metric, and ends the call.  Bytes that are no content are no progress.
Method: a provider that hangs or sends comments, empty deltas and keep-alives for ever.
"""
import time
import unittest

from provider import ROLE, Answer, Provider, event, text
from tolld import SLOW, Tolld, end_of, micro, text_of, wait_for

PRICES = "price_prompt = 0.15 price_cached = 0.075 price_completion = 0.60\n" \
         "context = 1000000 max_completion = 100000"
NOTHING = (": ping\n\n", ROLE, event(choices=[]), "\n", "event: ping\ndata: {\"choices\":[]}\n\n")


class Timeouts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.p = Provider()
        config = "".join(f'''
provider "{name}" {{ base_url = "{url}"
    retries = 0 breaker_failures = 0 }}
model "{name}" {{ provider = {{"{name}"}}
{PRICES} }}
''' for name, url in (("p", f"http://127.0.0.1:{cls.p.port}"), ("far", "http://192.0.2.1")))
        cls.t = Tolld(sim=False, config=config, ledger="slice_tokens = 50",
                      timeouts="connect = 1 first_token = 2 idle = 2 stream = 6")
        cls.addClassCleanup(cls.t.close)
        cls.addClassCleanup(cls.p.close)
        cls.t.start()
        cls.key = cls.t.account("alice", "1000")

    def fails(self, answer, kind, seconds, model="p"):
        """The error's data, after about so many seconds; the provider is left at once."""
        self.p.reset(answer)
        metric = f'tolld_upstream_errors_total{{provider="{model}",kind="{kind}"}}'
        before, began = self.t.metrics().get(metric, 0), time.monotonic()
        events = self.t.run(self.key, "hello", model)
        took = time.monotonic() - began
        what, end = end_of(events)
        self.assertEqual((what, end["error"]["code"], end["error"]["kind"]),
                         ("error", "upstream_timeout", kind), end)
        self.assertGreater(took, seconds - 0.1)
        self.assertLess(took, seconds + 20 * SLOW)
        self.assertEqual(self.t.metrics()[metric] - before, 1)
        if self.p.seen:
            wait_for(lambda: self.p.seen[0].closed_at, 5, "the call to be closed")
        wait_for(lambda: self.t.ctl("hold", "list") == [], 10, "holds to be closed")
        self.t.audit()
        return end, text_of(events)

    def test_first_token(self):
        for answer in [Answer(hang="before"), Answer("", hang="after"), Answer(ROLE, hang="after")]:
            end, got = self.fails(answer, "first_token_timeout", 2)
            self.assertEqual((micro(end["cost"]), got), (0, ""))

    def test_first_token_while_it_talks(self):
        for nothing in NOTHING:
            end, _ = self.fails(Answer(ROLE, drip=nothing), "first_token_timeout", 2)
            self.assertEqual(micro(end["cost"]), 0)

    def test_idle(self):
        end, got = self.fails(Answer(text("one two"), hang="after"), "idle_timeout", 2)
        self.assertGreater(micro(end["cost"]), 0)
        self.assertEqual(got, "one two")

    def test_idle_while_it_talks(self):
        for nothing in NOTHING:
            self.fails(Answer(text("one two"), drip=nothing), "idle_timeout", 2)

    def test_stream(self):
        end, got = self.fails(Answer(text("a "), drip=text("b ")), "stream_timeout", 6)
        self.assertGreater(micro(end["cost"]), 0)
        self.assertGreater(len(got), 20)

    def test_connect(self):
        """An address that nobody has: packets to it are lost, or refused where there is no road."""
        self.p.reset()
        began = time.monotonic()
        what, end = end_of(self.t.run(self.key, "hello", "far"))
        self.assertEqual(what, "error")
        self.assertIn(end["error"]["kind"], ("connect_timeout", "connect"))
        self.assertLess(time.monotonic() - began, 20 * SLOW)
        self.assertEqual(micro(end["cost"]), 0)


if __name__ == "__main__":
    unittest.main()
