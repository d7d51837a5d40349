"""Goal:   clients and providers that do what is allowed, seldom done, and bad for us.
Method: a real daemon; a HEAD that has to be handed to the stream's worker; a provider that sends
        megabytes of what is hardly a token.
"""
import http.server
import json
import threading
import unittest

from tolld import PATIENCE, SLOW, Case, Tolld, end_of, micro, text_of, wait_for

BLANKS = 900000
EVENTS = 8  # more than a worker's ring holds, in less than half a slice of the largest size


class Blanks(http.server.BaseHTTPRequestHandler):
    """A provider whose answer is blanks, each event nearly as long as a line may be."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        text = {"choices": [{"index": 0, "delta": {"content": " " * BLANKS}}]}
        stop = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        try:
            for event in [text] * EVENTS + [stop]:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass  # cut off: the test sees it on the other side
        self.close_connection = True

    def log_message(self, *args):
        pass


class HandedOver(Case):
    OPTIONS = dict(workers=2, models={"short": "sim:tokens=12"})

    def test_head_of_anothers_stream_does_not_run_it(self):
        key = self.t.account("alice", "10")
        sent = self.t.send(key, "tell me", "short")
        # A connection comes to either worker; sixteen do not all come to the owner.
        for _ in range(16):
            status, headers, body = self.t.request("HEAD", "/stream?id=" + sent["stream_id"])
            self.assertEqual((status, body), (200, b""))
            self.assertEqual(headers["Content-Type"], "text/event-stream")
        self.assertEqual(self.t.sim.requests(), [])
        self.assertEqual(len(self.t.ctl("hold", "list")), 1)
        s = self.t.open(sent["stream_id"])
        self.assertEqual(end_of(list(s.typed()))[0], "done")
        s.close()
        self.invariants()


class MuchTextFewTokens(unittest.TestCase):
    def test_it_is_settled(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blanks)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        t = Tolld(workers=1, ledger="slice_tokens = 1000000", config=f'''
provider "blanks" {{
    dialect = "openai"
    base_url = "http://127.0.0.1:{server.server_port}/v1"
    api_key = ""
}}
model "blanks" {{
    provider = {{"blanks"}}
    upstream = "blanks"
    tokenizer = "o200k_base"
    price_prompt = 0.15
    price_cached = 0.075
    price_completion = 0.60
    context = 1000000
    max_completion = 1000000
}}
''').start()
        self.addCleanup(t.close)
        key = t.account("alice", "100")
        events = []
        sent = t.send(key, "hello", "blanks")
        reader = threading.Thread(
            target=lambda: events.extend(t.open(sent["stream_id"]).typed()), daemon=True)
        reader.start()
        reader.join(PATIENCE * SLOW)  # keep-alives would defeat a time-out of the socket
        self.assertFalse(reader.is_alive(), t.ctl("hold", "list"))
        kind, done = end_of(events)
        self.assertEqual((kind, done.get("finish_reason")), ("done", "stop"), done)
        self.assertEqual(text_of(events), " " * BLANKS * EVENTS)
        wait_for(lambda: t.ctl("hold", "list") == [], 10, "the hold to be closed")
        self.assertEqual(micro(t.show("alice")["balance"]), 100000000 - micro(done["cost"]))
        t.audit()
        self.assertEqual(t.stop(), 0, t.log())


if __name__ == "__main__":
    unittest.main()
