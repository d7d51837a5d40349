"""Goal:   the chat page's files are served as they are in the binary, with headers that let a browser
        keep what may be kept and run nothing else; and not at all where the page is off.
Method: plain HTTP to a real daemon; a browser's view of it is in tests/page.
"""
import gzip
import http.client
import os
import re
import unittest

from tolld import BUILD, ROOT, Case, Tolld

TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
         "js": "text/javascript; charset=utf-8", "ts": "text/plain; charset=utf-8",
         "svg": "image/svg+xml"}
SOURCES = os.path.join(ROOT, "daemon", "page")


def served():
    """{path: file} of all that daemon/page/ has for a browser."""
    names = [n for n in os.listdir(SOURCES) if n.rsplit(".", 1)[1] in TYPES]
    return {"/" if n == "index.html" else "/page/" + n: n for n in names}


def read(path):
    with open(path, "rb") as f:
        return f.read()


def get(t, path, method="GET", **headers):
    """(status, headers, body's bytes) as they are on the wire."""
    c = http.client.HTTPConnection("127.0.0.1", t.port, timeout=60)
    try:
        c.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


def without_versions(body):
    return re.sub(rb"\?v=[0-9a-f]{20}", b"", body)


class Page(Case):
    OPTIONS = {"workers": 2}

    def test_every_file_and_its_type(self):
        for path, name in served().items():
            status, headers, body = get(self.t, path)
            self.assertEqual(status, 200, path)
            self.assertEqual(headers["Content-Type"], TYPES[name.rsplit(".", 1)[1]])
            self.assertEqual(int(headers["Content-Length"]), len(body))
            # As it is in the sources but for the versions, whose number is small.
            self.assertEqual(without_versions(body), read(os.path.join(SOURCES, name)), path)

    def test_every_file_asks_for_the_others_with_their_version(self):
        version = self.version()
        for path, name in served().items():
            body = get(self.t, path)[2].decode()
            if name.endswith(".html"):
                asked = re.findall(r'(?:src|href)="(page/[^"]*)"', body)
                self.assertGreater(len(asked), 8)
            elif name.endswith(".js"):
                asked = re.findall(r"\bfrom '(\./[^']*)'", body)
            else:
                continue
            for a in asked:
                self.assertTrue(a.endswith("?v=" + version), f"{path}: {a}")
                whole = "/" + a if a.startswith("page/") else "/page/" + a[2:]
                self.assertEqual(get(self.t, whole)[0], 200, whole)

    def version(self):
        return read(os.path.join(BUILD, "page", "version")).decode()

    def test_headers_that_keep_strangers_out(self):
        for path in served():
            _, headers, _ = get(self.t, path)
            policy = dict(p.split(" ", 1) if " " in p else (p, "") for p in
                          headers["Content-Security-Policy"].split("; "))
            self.assertEqual(policy, {
                "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
                "connect-src": "'self'", "img-src": "'self' data:", "form-action": "'none'",
                "base-uri": "'none'", "frame-ancestors": "'none'",
                "require-trusted-types-for": "'script'", "trusted-types": "'none'"})
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["Referrer-Policy"], "no-referrer")
            self.assertEqual(headers["X-Frame-Options"], "DENY")
            self.assertNotIn("Set-Cookie", headers)
            self.assertNotIn("Access-Control-Allow-Origin", headers)

    def test_nothing_inline_and_nothing_from_elsewhere(self):
        html = get(self.t, "/")[2].decode()
        self.assertEqual(re.findall(r"<script(?![^>]*\ssrc=)", html), [])
        self.assertEqual(re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", html), [])
        for path, name in served().items():
            text = get(self.t, path)[2].decode()
            # Namespaces of XML, and links in comments, are asked for by nobody.
            addresses = [a for a in re.findall(r"https?://[\w.-]+", text)
                         if a not in ("http://www.w3.org", "https://html.spec.whatwg.org")]
            self.assertEqual(addresses, [], name)
            if name.endswith(".js"):
                for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                             "eval(", "Function(", "setAttribute('style'", "setAttribute('on"):
                    self.assertNotIn(word, text, name)

    def test_what_may_be_kept_and_for_how_long(self):
        version = self.version()
        for path in served():
            tags = {}
            for coding in ("", "gzip"):
                more = {"Accept_Encoding": coding} if coding else {}
                status, headers, body = get(self.t, path, **more)
                self.assertEqual((status, headers["Cache-Control"]), (200, "no-cache"))
                self.assertEqual(headers["Vary"], "Accept-Encoding")
                self.assertRegex(headers["ETag"], r'^"[0-9a-f]{20}(-gz)?"$')
                self.assertEqual(headers["Content-Encoding"], coding or None)
                tags[coding] = headers["ETag"]
                for match in (headers["ETag"], "W/" + headers["ETag"], "*",
                              '"x", ' + headers["ETag"] + ' ,"y"'):
                    status, again, body = get(self.t, path, If_None_Match=match, **more)
                    self.assertEqual((status, body), (304, b""), match)
                    for name in ("ETag", "Cache-Control", "Vary", "Content-Security-Policy"):
                        self.assertEqual(again[name], headers[name])
                    self.assertNotIn("Content-Length", again)
                for match in ('"other"', "", '"', "W/", headers["ETag"][1:-1], '"x" "y"'):
                    self.assertEqual(get(self.t, path, If_None_Match=match, **more)[0], 200, match)
            # One name, two bodies: a cache must not take one for the other.
            self.assertNotEqual(tags[""], tags["gzip"])
            self.assertEqual(get(self.t, path, If_None_Match=tags["gzip"])[0], 200)
            for v, kept in ((version, path != "/"), (version[:-1], False), (version + "0", False),
                            ("", False), ("%00", False), (version.upper() + "%", False)):
                status, headers, _ = get(self.t, f"{path}?v={v}")
                self.assertEqual(status, 200)
                self.assertEqual("immutable" in headers["Cache-Control"], kept, f"{path} {v}")

    def test_gzip_to_those_who_take_it(self):
        for path in served():
            plain = get(self.t, path)[2]
            for accept in ("gzip", "br, GZIP;q=0.5", "deflate , gzip ; q=1.000", "x;q=0,gzip"):
                status, headers, body = get(self.t, path, Accept_Encoding=accept)
                self.assertEqual(headers["Content-Encoding"], "gzip", accept)
                self.assertEqual(gzip.decompress(body), plain)
            for accept in ("identity", "br", "gzip;q=0", "gzip; q=0.000", "gzipx", "xgzip", ",;,",
                           "*"):
                status, headers, body = get(self.t, path, Accept_Encoding=accept)
                self.assertNotIn("Content-Encoding", headers, accept)
                self.assertEqual(body, plain)

    def test_head_and_other_methods(self):
        for path in served():
            _, want, body = get(self.t, path)
            status, headers, nothing = get(self.t, path, "HEAD")
            self.assertEqual((status, nothing), (200, b""))
            for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
                self.assertEqual(headers[name], want[name])
            self.assertEqual(get(self.t, path, "HEAD", If_None_Match=want["ETag"])[0], 304)
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                status, headers, _ = get(self.t, path, method)
                self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD, OPTIONS"), method)

    def test_paths_that_lead_nowhere(self):
        for path in ("//", "/.", "/index.html", "/page", "/page/", "/page/index.html", "/page//page.js",
                     "/page/../page/page.js", "/page/./page.js", "/page/%2e%2e/page.js",
                     "/page/page%2ejs", "/page/page.js/", "/page/page.js%00", "/page/PAGE.JS",
                     "/page/pack.sh", "/page/package.json", "/page/page.js.gz", "/page/version",
                     "/page/page.js;v=1", "/../etc/passwd", "/page/..%2f..%2fetc/passwd", "/page.js",
                     "/page/" + "a" * 7000):
            status, _, body = get(self.t, path)
            self.assertEqual(status, 404, path)
            self.assertIn(b'"not_found"', body)
        # No key is asked for, and a bad one is no reason to refuse.
        for headers in ({"Authorization": "Bearer nonsense"}, {"x_api_key": "nonsense"}):
            self.assertEqual(get(self.t, "/", **headers)[0], 200)
        self.assertEqual(get(self.t, "/?s=<script>&v=%zz")[0], 200)
        self.assertNotIn(b"<script>&", get(self.t, "/?s=<script>&v=%zz")[2])

    def test_it_is_counted(self):
        def count():
            return self.t.metric('tolld_requests_total{route="/",code="200"}')

        before = count()
        get(self.t, "/")
        self.assertEqual(count(), before + 1)


class WithoutPage(Case):
    OPTIONS = {"config": "chat_page = false"}

    def test_there_is_nothing(self):
        for path in served():
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                status, headers, body = get(self.t, path, method)
                self.assertEqual(status, 404, f"{method} {path}")
                self.assertNotIn("Allow", headers)
                self.assertNotIn("ETag", headers)
            self.assertIn(b'"not_found"', get(self.t, path)[2])
        # All else is as it was.
        key = self.t.account("alice")
        self.assertEqual(self.t.request("GET", "/balance", key=key)[0], 200)
        self.assertEqual(self.t.request("GET", "/v1/models", key=key)[0], 200)


class Reloaded(Case):
    def test_a_reload_takes_it_away_and_brings_it_back(self):
        for setting, status in (("false", 404), ("true", 200), ("false", 404)):
            self.t.extra = (f"chat_page = {setting}", "", "")
            self.t.write_config()
            self.t.ctl("reload")
            for path in served():
                self.assertEqual(get(self.t, path)[0], status, path)
                self.assertEqual(get(self.t, path, "OPTIONS")[0], 404 if status == 404 else 204)


class OtherSites(Case):
    """The module, for a page of another site that may call from a browser."""
    OPTIONS = {"config": 'cors_origins = {"https://chat.example"}'}

    def test_the_module_can_be_imported_by_them_alone(self):
        _, headers, _ = get(self.t, "/page/tolld.js", Origin="https://chat.example")
        self.assertEqual(headers["Access-Control-Allow-Origin"], "https://chat.example")
        self.assertEqual(headers.get_all("Vary"), ["Origin", "Accept-Encoding"])
        _, headers, _ = get(self.t, "/page/tolld.js", Origin="https://evil.example")
        self.assertNotIn("Access-Control-Allow-Origin", headers)


class BadSetting(unittest.TestCase):
    def test_the_setting_is_checked(self):
        t = Tolld(config="chat_page = perhaps", sim=False)
        try:
            t.start(wait=False)
            self.assertEqual(t.process.wait(20), 1)
            self.assertIn("chat_page", t.log())
        finally:
            t.close()


if __name__ == "__main__":
    unittest.main()
