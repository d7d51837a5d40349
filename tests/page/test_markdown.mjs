// Goal:   an answer is shown as its Markdown means it, and one that wants more than to be read gets
//         nothing.
// Method: a provider that says it in pieces of a few letters; then the page is searched for what must
//         not be there, and the browser for what it had to refuse: nothing may have come that far.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Tolld } from '../../daemon/page/tolld.js';
import { ask, at, browser, copies, ended, lastAnswer, provider, shot, signIn, until } from './harness.mjs';

const PROSE = `Sound is a pressure wave. Its speed depends on the **medium**, not on how loud it is:

| Medium | Speed, m/s |
|:-------|-----:|
| Air, 20 °C | 343 |
| Water | 1,481 |
| Steel | 5,960 |

For air a good approximation is \`v ≈ 331.3 + 0.606·t\`:

\`\`\`python
def speed_of_sound(celsius: float) -> float:
    """Metres per second, in dry air."""
    return 331.3 + 0.606 * celsius
\`\`\`

1. Count the seconds between *flash* and thunder.
2. Divide by three: that many kilometres.

> More at [NOAA](https://www.weather.gov/).`;

const HOSTILE = ['<script>globalThis.owned = 1</script>', '<img src=x onerror="globalThis.owned=2">', '<svg onload="globalThis.owned=3"></svg>',
	'<iframe src="javascript:parent.owned=4"></iframe>', '<a href="javascript:owned=5">html</a>', '<style>body{display:none}</style>',
	'<form action="https://evil.example"><input name=key></form>', '<base href="https://evil.example/">', '<meta http-equiv=refresh content="0;url=https://evil.example">',
	'<link rel=stylesheet href=https://evil.example/x.css>', '<object data=https://evil.example></object>',
	'[js](javascript:globalThis.owned=6)', '[JS]( JaVaScRiPt:globalThis.owned=7 )', '[ent](&#106;avascript:owned=8)', '[data](data:text/html,<script>owned=9</script>)',
	'[vb](vbscript:x)', '[rel](//evil.example)', '[file](file:///etc/passwd)', '<javascript:owned=10>',
	'![pic](https://evil.example/track.gif)', '![svg](data:image/svg+xml,<svg/onload=owned=11>)', '[![a](javascript:owned=12)](javascript:owned=13)',
	'[quote](https://evil.example/"onclick="owned=14)', '[t](https://evil.example "onmouseover=owned=15")',
	'```html\n<script>owned=16</script>\n```', '| <img src=x onerror=owned=17> |\n|---|\n| <script>owned=18</script> |', '# <script>owned=19</script>',
	'> <img src=x onerror=owned=20>', '- <svg onload=owned=21>\n  - [x](javascript:owned=22)', '`<img src=x onerror=owned=23>`'].join('\n\n');

const WIDE = `${'x'.repeat(400)}

\`\`\`
${'y '.repeat(300)}
\`\`\`

| ${Array.from({ length: 20 }, (_, i) => `column ${i}`).join(' | ')} |
|${'---|'.repeat(20)}
| ${'value | '.repeat(20)}

https://x.example/${'z'.repeat(300)}`;

const LONG = Array.from({ length: 200 }, (_, i) => `${i}. ${'word '.repeat(12)}**b** \`c\``).join('\n');

let b, p, page;

before(async () => {
	p = await provider({ prose: PROSE, hostile: HOSTILE, wide: WIDE, long: LONG });
	b = await browser({ deviceScaleFactor: 1.5, viewport: { width: 1200, height: 860 } });
	page = await b.page();
	// So that there is something at the side of the picture for the README.
	const tolld = new Tolld({ baseUrl: at.url, key: at.keys.markdown });
	for (const message of ['Why do bridges have tolls?', 'A week in Lisbon in May', 'What is TCP slow start?'])
		for await (const e of tolld.stream(await tolld.send({ model: 'quick', message })))
			assert.notEqual(e.type, 'error');
	await signIn(page, at.keys.markdown);
});
after(async () => {
	await b.clean();
	await b.close();
	await p.close();
});

test('tables, code, lists, quotes, links', async () => {
	await ask(page, 'How fast does sound travel?', 'prose');
	assert.match(await ended(page), /tokens · It cost/);
	const a = lastAnswer(page).locator('.text');
	assert.deepEqual(await a.locator('th').allTextContents(), ['Medium', 'Speed, m/s']);
	assert.equal(await a.locator('tbody tr').count(), 3);
	assert.equal(await a.locator('td').nth(1).evaluate((e) => getComputedStyle(e).textAlign), 'right');
	assert.match(await a.locator('pre code').textContent(), /^def speed_of_sound.*\n {4}"""Metres[^]*celsius$/);
	assert.deepEqual(await a.locator('ol li').allTextContents(), ['Count the seconds between flash and thunder.', 'Divide by three: that many kilometres.']);
	const link = a.getByRole('link', { name: 'NOAA' });
	assert.deepEqual(await link.evaluate((e) => [e.href, e.rel, e.target]), ['https://www.weather.gov/', 'noopener noreferrer nofollow', '_blank']);
	await b.context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: at.url });
	await copies(a, 'Copy the code');
	assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^def speed_of_sound/);
	await page.locator('#question').fill('And in the sea?');
	await page.locator('#price').filter({ hasText: 'About' }).waitFor();
	await a.getByRole('button', { name: 'Copy the code' }).waitFor(); // the word is back
	await page.mouse.move(600, 20);
	await shot(page, 'answer');
});

test('what is hostile is shown and does nothing', async () => {
	await ask(page, 'Attack me', 'hostile');
	await ended(page);
	const a = lastAnswer(page).locator('.text');
	const found = await a.evaluate((root) => {
		const names = {}, links = [], attributes = new Set();
		for (const e of root.querySelectorAll('*')) {
			names[e.localName] = (names[e.localName] ?? 0) + 1;
			for (const x of e.attributes)
				attributes.add(x.name);
			if (e.localName === 'a')
				links.push(e.href);
		}
		return { names: Object.keys(names), links, attributes: [...attributes] };
	});
	const allowed = new Set('p br div span pre code button svg path blockquote ul ol li table thead tbody tr th td h3 a'.split(' '));
	assert.deepEqual(found.names.filter((n) => !allowed.has(n)), []);
	assert.deepEqual(found.links.filter((l) => !l.startsWith('https://evil.example/')), []);
	assert.ok(found.links.length >= 3); // the picture, and two that are merely ugly
	assert.deepEqual(found.attributes.filter((n) => n.startsWith('on') || ['style', 'src', 'srcdoc', 'action'].includes(n)), []);
	// All of it can be read.
	const text = await a.textContent();
	for (const part of ['<script>globalThis.owned = 1</script>', '<img src=x onerror="globalThis.owned=2">', 'javascript:globalThis.owned=6', '<style>body{display:none}</style>'])
		assert.ok(text.includes(part), part);
	for (const name of ['js', 'JS', 'ent', 'data', 'vb', 'rel', 'file'])
		assert.equal(await a.getByRole('link', { name, exact: true }).count(), 0, name);
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
	assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
	await shot(page, 'hostile');
});

test('a question is text, whatever it says', async () => {
	const text = '<img src=x onerror="owned=1"> **not bold** [x](javascript:owned=2)';
	await ask(page, text, 'prose');
	assert.equal(await page.locator('.asked').last().locator('p').evaluate((e) => e.children.length), 0);
	assert.equal(await page.locator('.asked').last().textContent(), text);
	await ended(page);
	assert.equal(await page.evaluate(() => globalThis.owned), undefined);
});

test('wide things scroll by themselves, not the page', async () => {
	await ask(page, 'Widely', 'wide');
	await ended(page);
	for (const width of [1200, 375]) {
		await page.setViewportSize({ width, height: 800 });
		assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0, `${width}`);
		assert.equal(await page.locator('#talk').evaluate((e) => e.scrollWidth - e.clientWidth), 0, `${width}`);
	}
	await page.setViewportSize({ width: 1200, height: 800 });
});

test('a long answer stays in sight as it grows, unless one reads further up', async () => {
	await ask(page, 'At length', 'long');
	const talk = page.locator('#talk');
	const rest = () => talk.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight);
	await page.waitForFunction(() => document.querySelector('#messages > .answer:last-child li:nth-child(60)'));
	await until(async () => await rest() < 60, 'the end in sight');
	await talk.evaluate((e) => {
		e.scrollTop = 0;
	});
	await page.locator('#down').waitFor();
	const items = await lastAnswer(page).locator('li').count();
	await page.waitForFunction((n) => document.querySelectorAll('#messages > .answer:last-child li').length >= Math.min(200, n + 20), items);
	assert.equal(await talk.evaluate((e) => e.scrollTop), 0);
	await page.locator('#down').click();
	await until(async () => await rest() < 60, 'the end in sight');
	await ended(page);
	assert.equal(await lastAnswer(page).locator('li').count(), 200);
	await until(async () => await rest() < 60, 'the end in sight');
	await page.locator('#down').waitFor({ state: 'hidden' });
	// More that comes between a scrolling and the moment when it is told of is no reading further up.
	await talk.evaluate((e) => {
		e.scrollTop = 0;
	});
	await page.locator('#down').waitFor();
	await page.evaluate(() => {
		document.getElementById('down').click();
		document.getElementById('messages').append(Object.assign(document.createElement('p'), { id: 'more', style: 'height: 400px' }));
	});
	await page.evaluate(() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r))));
	await until(async () => await rest() < 60, 'the end in sight');
	await page.evaluate(() => document.getElementById('more').remove());
});
