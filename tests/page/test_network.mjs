// Goal:   the answer is one, whatever becomes of the connection, the tab or the window it is read in.
// Method: a wire between browser and daemon that is cut; tabs that are loaded anew; a browser that is
//         told it is offline.  The text is held against what the daemon has of the stream.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { ask, at, browser, ended, lastAnswer, provider, shot, signIn, some, until, wire } from './harness.mjs';

let b, p;
const key = at.keys.network;

before(async () => {
	p = await provider();
	b = await browser();
});
after(async () => {
	await b.clean();
	await b.close();
	await p.close();
});

// As it is read: lines end where paragraphs do.
const textOf = async (page) => (await lastAnswer(page).locator('.text').innerText()).replace(/\s+/g, ' ').trim();

async function open(url = at.url) {
	const page = await b.context.newPage();
	page.streams = [];
	page.on('request', (r) => {
		const u = new URL(r.url());
		if (u.pathname.endsWith('/stream') && r.method() === 'GET')
			page.streams.push(u.searchParams.get('id'));
	});
	await page.goto(url);
	if (await page.locator('#door').isVisible())
		await signIn(page, key);
	return page;
}

// What the daemon kept of a page's last stream.  (The simulated provider says words without marks.)
async function kept(page) {
	const r = await fetch(`${at.url}/stream?id=${page.streams.at(-1)}`);
	const text = await r.text();
	return JSON.parse(text.slice(text.lastIndexOf('data: ') + 6)).data.full_text;
}

async function whole(page) {
	const want = await kept(page);
	assert.equal(await textOf(page), want.replace(/\s+/g, ' ').trim());
	assert.equal(new Set(page.streams).size, 1); // one stream, whoever came back to it
	return want;
}

test('a connection that breaks is taken up where it was', async (t) => {
	const w = await wire(t);
	b.allow(w.url);
	const page = await open(w.url);
	const enough = p.endless();
	await ask(page, 'Cut me off', 'endless');
	await some(page, 60);
	w.cut();
	await page.locator('#state.waiting').filter({ hasText: 'Connection lost' }).waitFor();
	const then = (await textOf(page)).length;
	await shot(page, 'connection-lost');
	assert.ok(await lastAnswer(page).locator('.end').isHidden());
	w.mend();
	await page.locator('#state.open').filter({ hasText: 'Connected' }).waitFor();
	await until(async () => (await textOf(page)).length > then, 'more text');
	// Twice more, while it goes on.
	for (let i = 0; i < 2; i++) {
		const n = page.streams.length;
		w.cut();
		w.mend();
		await until(() => page.streams.length > n, 'another connection');
		await page.locator('#state.open').waitFor();
	}
	enough();
	assert.match(await ended(page), /^[\d,]+ tokens · It cost/);
	assert.ok(page.streams.length >= 4, `${page.streams.length} connections`);
	await whole(page);
	await page.close();
});

test('a connection that breaks after every few hundred bytes', async (t) => {
	let n = 0, breaks = false;
	const w = await wire(t, { after: () => breaks ? 700 + 97 * (n++ % 10) : Infinity });
	b.allow(w.url);
	const page = await open(w.url);
	breaks = true; // from here on
	await ask(page, 'Tell me', 'story');
	assert.match(await ended(page), /60 tokens/);
	await whole(page);
	await page.close();
});

test('a send whose answer is lost is one send', async () => {
	const page = await open();
	let sends = 0;
	const keys = new Set();
	await page.route('**/chat/send', async (route) => {
		keys.add(route.request().headers()['idempotency-key']);
		if (sends++ === 0) {
			await route.fetch(); // it arrives; its answer does not
			await route.abort('connectionreset');
		} else {
			await route.continue();
		}
	});
	await ask(page, 'Only once', 'quick');
	assert.match(await ended(page), /12 tokens/);
	assert.equal(sends, 2);
	assert.equal(keys.size, 1);
	assert.equal(await page.locator('.asked').count(), 1);
	await page.close();
});

test('offline and back', async () => {
	const page = await open();
	const enough = p.endless();
	await ask(page, 'Through the tunnel', 'endless');
	await some(page, 60);
	await b.context.setOffline(true);
	await page.locator('#state').filter({ hasText: 'You are offline' }).waitFor();
	await shot(page, 'offline');
	const then = (await textOf(page)).length;
	await b.context.setOffline(false);
	await until(async () => (await textOf(page)).length > then + 20, 'more text');
	enough();
	assert.match(await ended(page), /^[\d,]+ tokens · It cost/);
	await whole(page);
	await page.close();
});

test('what cannot be sent goes back to where it was written', async () => {
	const page = await open();
	await b.context.setOffline(true);
	await ask(page, 'Nobody hears this', 'quick');
	await page.locator('#hint').filter({ hasText: 'It could not be sent: The connection to the service is lost.' }).waitFor();
	assert.equal(await page.locator('#question').inputValue(), 'Nobody hears this');
	assert.equal(await page.locator('.asked').count(), 0);
	await b.context.setOffline(false);
	await page.locator('#send').click();
	assert.match(await ended(page), /12 tokens/);
	await page.close();
});

test('a page that is loaded anew goes on with its answer', async () => {
	const page = await open();
	const enough = p.endless();
	await ask(page, 'Do not lose this', 'endless');
	await some(page, 60);
	const seen = await textOf(page);
	const [stream] = page.streams;
	const before = p.cancelled();
	await page.reload();
	await some(page, 60);
	await until(async () => (await textOf(page)).length > seen.length, 'more than before');
	assert.ok((await textOf(page)).startsWith(seen));
	assert.equal(await page.locator('.asked').last().textContent(), 'Do not lose this');
	assert.equal(await page.locator('.asked').count(), 1);
	assert.equal(page.streams.at(-1), stream);
	await shot(page, 'reloaded');
	enough();
	assert.match(await ended(page), /^[\d,]+ tokens · It cost/);
	await whole(page);
	assert.equal(p.cancelled(), before);
	// And once more after its end: what was said is still there, once.
	await page.reload();
	await page.locator('.answer').waitFor();
	assert.equal(await page.locator('.asked').count(), 1);
	assert.equal(await page.locator('.answer').count(), 1);
	assert.ok((await textOf(page)).startsWith(seen));
	await page.close();
});

test('two tabs on one conversation see the same answer', async () => {
	const one = await open();
	await ask(one, 'First', 'quick');
	await ended(one);
	const two = await open();
	await two.goto(one.url()); // the same conversation, by its address
	await two.locator('.answer').waitFor();
	p.endless();
	await ask(one, 'Together', 'endless');
	await two.locator('.asked').filter({ hasText: 'Together' }).waitFor();
	await some(two, 60);
	assert.ok(await two.locator('#stop').isVisible());
	// The one who stops it stops it for both.
	await two.locator('#stop').click();
	const words = await ended(two);
	assert.match(words, /^Stopped\./);
	assert.equal(await ended(one), words);
	assert.equal(await textOf(two), await textOf(one));
	assert.deepEqual([one.streams.at(-1), one.streams.length], [two.streams.at(-1), 2]);
	await one.close();
	await two.close();
});

test('a list of conversations that comes late brings nothing back', async () => {
	const page = await open();
	await ask(page, 'To be deleted', 'quick');
	await ended(page);
	const row = page.locator('.session').filter({ hasText: 'To be deleted' });
	await row.waitFor();
	let release, held = 0;
	const released = new Promise((r) => {
		release = r;
	});
	let late;
	await page.route((u) => u.pathname === '/chat/history' && u.search === '', async (route) => {
		if (held++ > 0) {
			await route.continue();
			return;
		}
		const response = await route.fetch(); // as it is now
		late = released.then(() => route.fulfill({ response }));
	});
	await ask(page, 'And more', 'quick'); // after which it is asked for
	await ended(page);
	await until(() => late !== undefined, 'the list to be asked for');
	await page.getByRole('button', { name: 'Delete “To be deleted”' }).click();
	await page.locator('#confirm-yes').click();
	await page.getByText('What would you like to know?').waitFor();
	await row.waitFor({ state: 'detached' });
	const arrived = page.waitForEvent('requestfinished', (r) => r.url().endsWith('/chat/history'));
	release();
	await late;
	await arrived;
	await page.evaluate(() => new Promise((r) => setTimeout(r))); // what waits for it has run
	assert.equal(await row.count(), 0);
	await page.unrouteAll();
	await page.close();
});

test('a question may come before the list of conversations', async () => {
	const page = await b.context.newPage();
	let release;
	const released = new Promise((r) => {
		release = r;
	});
	await page.route('**/chat/history', async (route) => {
		await released;
		await route.continue();
	});
	await page.goto(at.url);
	await signIn(page, key);
	const enough = p.endless();
	await ask(page, 'Early', 'endless');
	await some(page, 60);
	release();
	await page.locator('.session.here').filter({ hasText: 'Early' }).waitFor();
	await page.evaluate(() => new Promise((r) => setTimeout(r))); // what waits for it has run
	assert.equal(await page.locator('.answer').count(), 1);
	enough();
	await ended(page);
	assert.equal(await page.locator('.answer.runs').count(), 0);
	await page.unrouteAll({ behavior: 'wait' });
	await page.close();
});

test('another conversation may be looked at while one is answered', async () => {
	const page = await open();
	const enough = p.endless();
	await ask(page, 'In the meantime', 'endless');
	await some(page, 60);
	const url = page.url();
	await page.getByRole('button', { name: 'New conversation' }).click();
	await page.getByText('What would you like to know?').waitFor();
	assert.ok(await page.locator('#send').isVisible());
	await page.goto(url);
	await some(page, 60);
	enough();
	assert.match(await ended(page), /^[\d,]+ tokens · It cost/);
	await whole(page);
	await page.close();
});
