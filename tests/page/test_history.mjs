// Goal:   what was said is there on any device, also while it is being said, until it is forgotten.
// Method: browsers that know nothing of each other but the key; sessions made beside them by the
//         module itself, in Node.js; and a daemon that is made to seem to keep no history.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Tolld } from '../../daemon/page/tolld.js';
import { ask, at, browser, ended, lastAnswer, provider, shot, signIn, some, tollctl, until } from './harness.mjs';

let b, p;
const key = at.keys.history;
const tolld = new Tolld({ baseUrl: at.url, key });

before(async () => {
	p = await provider();
	b = await browser();
});
after(async () => {
	await b.clean();
	await b.close();
	await p.close();
});

const textOf = async (page) => (await lastAnswer(page).locator('.text').innerText()).replace(/\s+/g, ' ').trim();

// Question and answer without a page.
async function turn(message, about = {}, client = tolld) {
	const sent = await client.send({ model: 'quick', message, ...about });
	let last;
	for await (const e of client.stream(sent))
		last = e;
	return { ...sent, ...last };
}

async function open(url = at.url, k = key) {
	const page = await b.context.newPage();
	await page.goto(url);
	if (await page.locator('#door').isVisible())
		await signIn(page, k);
	return page;
}

// Another device: nothing in common but the key.
async function elsewhere(t, options = {}) {
	const other = await browser(options);
	t.after(async () => {
		await other.clean();
		await other.close();
	});
	const page = await other.page();
	await signIn(page, key);
	return page;
}

test('what was asked here is there, too', async (t) => {
	const page = await open();
	await page.getByText('Nothing yet. What you ask will be listed here.').waitFor();
	await ask(page, 'Remember the bridge\nand the toll', 'quick');
	const first = await ended(page);
	const text = await textOf(page);
	await ask(page, 'And further?', 'endless');
	await some(page, 60);
	await page.keyboard.press('Escape');
	const second = await ended(page);
	await page.close();

	const phone = await elsewhere(t, { viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true });
	await phone.getByRole('button', { name: 'Show conversations' }).tap();
	await phone.getByRole('link', { name: /Remember the bridge/ }).tap();
	await phone.locator('.end p').nth(1).waitFor();
	assert.equal(await phone.locator('#title').textContent(), 'Remember the bridge');
	assert.equal(await phone.locator('#model').inputValue(), 'endless'); // as the last answer's
	assert.deepEqual(await phone.locator('.asked').allTextContents(), ['Remember the bridge\nand the toll', 'And further?']);
	assert.equal(await phone.locator('.answer').first().locator('.text').textContent(), text);
	assert.deepEqual(await phone.locator('.end p').allTextContents(), [first, second]);
	await phone.locator('#side').waitFor({ state: 'hidden' });
	await shot(phone, 'phone-history');
});

test('an answer is watched on, on another device', async (t) => {
	const page = await open();
	const phone = await elsewhere(t);
	const asked = [];
	const enough = p.endless();
	await ask(page, 'Close the lid', 'endless');
	await some(page, 60);
	const stream = await page.evaluate(() => JSON.parse(sessionStorage.getItem('tolld.open')).stream);
	await page.close(); // nobody reads it now
	await phone.bringToFront();
	await phone.reload();
	phone.on('request', (r) => r.url().includes('/stream?id=') && asked.push(new URL(r.url()).searchParams.get('id')));
	await phone.getByRole('link', { name: /Close the lid/ }).click();
	await some(phone, 60);
	assert.ok(await phone.locator('#stop').isVisible());
	await shot(phone, 'watched-on');
	const desk = await open(phone.url()); // and on a third one at the same time
	await some(desk, 60);
	enough();
	const words = await ended(phone);
	assert.match(words, /^[\d,]+ tokens · It cost/);
	assert.equal(await ended(desk), words);
	assert.equal(await textOf(desk), await textOf(phone));
	assert.deepEqual([...new Set(asked)], [stream]);
	assert.equal(await phone.locator('.asked').textContent(), 'Close the lid');
	const { messages } = await tolld.history(await phone.evaluate(() => location.hash.slice(3)));
	assert.equal(await textOf(phone), messages.at(-1).content.replace(/\s+/g, ' ').trim());
	assert.equal(messages.length, 2);
	await desk.close();
});

test('a question takes the past with it, and its price says so', async () => {
	const page = await open();
	const asked = [];
	page.on('request', (r) => /\/chat\/(?:send|preview)$/.test(r.url()) && asked.push(r.postDataJSON()));
	await ask(page, 'One', 'quick');
	await ended(page);
	await page.locator('#question').fill('Two');
	await page.locator('#price').filter({ hasText: 'About' }).waitFor();
	await page.locator('#send').click();
	await page.locator('.answer .end p').nth(1).waitFor();
	const id = await page.evaluate(() => location.hash.slice(3));
	const sends = asked.filter((a) => a.message === 'Two');
	assert.ok(sends.length >= 2);
	for (const s of sends) // price and send ask for the same
		assert.deepEqual([s.session_id, s.messages], [id, undefined]);
	const [price, alone] = [await tolld.preview({ model: 'quick', message: 'Two', session_id: id }), await tolld.preview({ model: 'quick', message: 'Two' })];
	assert.ok(price.prompt_tokens > alone.prompt_tokens);
	await page.close();
});

test('each way in which an answer can end is told again', async (t) => {
	const { session_id } = await turn('To the end', { model: 'quick' });
	await turn('To its limit', { model: 'slow', max_tokens: 5, session_id });
	await turn('Broken', { model: 'broken', session_id });
	const sent = await tolld.send({ model: 'slow', message: 'Stopped', session_id });
	for await (const e of tolld.stream(sent))
		if (e.type === 'token')
			await tolld.cancel(sent);
	const page = await elsewhere(t);
	await page.goto(`${at.url}#s=${session_id}`);
	await page.locator('.end p').nth(3).waitFor();
	const ends = await page.locator('.end p').allTextContents();
	assert.match(ends[0], /^12 tokens · It cost [\d.]+ credits$/);
	assert.match(ends[1], /^Cut: it reached its limit of 5 tokens\. 5 tokens · It cost [\d.]+ credits$/);
	assert.match(ends[2], /^It did not end well: .* 10 tokens · It cost [\d.]+ credits$/);
	assert.match(ends[3], /^Stopped\. [\d,]+ tokens? · It cost [\d.]+ credits$/);
	assert.equal(await page.getByRole('button', { name: 'Try again' }).count(), 1);
	// The credit that ran out: another account's.
	await tollctl('account', 'create', 'short', '--balance', '0.1', '--overdraft', '0');
	const made = JSON.parse(await tollctl('--json', 'key', 'create', 'short'));
	const cut = await turn('All of it', { model: 'slow' }, new Tolld({ baseUrl: at.url, key: made.key }));
	assert.equal(cut.finish_reason, 'credit');
	await page.getByRole('button', { name: 'Sign out' }).click();
	await signIn(page, made.key);
	await page.getByRole('link', { name: /All of it/ }).click();
	assert.match(await ended(page), /^Cut: your credit ran out here\./);
	// Of the other account's nothing is to be seen, not even by its name.
	await page.goto(`${at.url}#s=${session_id}`);
	await until(async () => !(await page.url()).includes('#s='), 'to be turned away');
	await page.getByText('What would you like to know?').waitFor();
	assert.equal(await page.locator('.asked').count(), 0);
});

test('earlier conversations and messages, page by page', async (t) => {
	const { session_id } = await turn('Number 0');
	for (let i = 1; i < 30; i++)
		await turn(`Number ${i}`, { session_id });
	for (let i = 0; i < 24; i++)
		await turn(`Conversation ${i}`);
	const page = await elsewhere(t);
	await page.locator('.session').nth(19).waitFor();
	assert.equal(await page.locator('.session').count(), 20);
	await page.getByRole('button', { name: 'Show earlier ones' }).click();
	await page.getByRole('link', { name: /Number 0/ }).waitFor();
	const titles = await page.locator('.session .title').allTextContents();
	assert.equal(new Set(titles.filter((x) => x.startsWith('Conversation'))).size, 24);
	assert.equal(titles[0], 'Conversation 23');
	await page.getByRole('link', { name: /Number 0/ }).click();
	await page.locator('.asked').nth(24).waitFor();
	assert.equal(await page.locator('.asked').first().textContent(), 'Number 5');
	await page.getByRole('button', { name: 'Show earlier messages' }).click();
	await page.locator('.asked').nth(29).waitFor();
	assert.deepEqual(await page.locator('.asked').allTextContents(), Array.from({ length: 30 }, (_, i) => `Number ${i}`));
	assert.equal(await page.locator('.answer').count(), 30);
	assert.equal(await page.getByRole('button', { name: 'Show earlier messages' }).count(), 0);
	// An answer makes the list anew: what was opened of it stays open.
	await ask(page, 'Number 30', 'quick');
	await page.locator('.answer .end p').nth(30).waitFor();
	await until(async () => (await page.locator('.session .title').first().textContent()) === 'Number 0', 'the list anew');
	assert.equal(await page.locator('.session').count(), titles.length);
});

test('a question goes behind what was said before, however late that comes', async () => {
	const { session_id } = await turn('Said before');
	const page = await open();
	let release;
	const released = new Promise((r) => {
		release = r;
	});
	await page.route('**/chat/history?session_id=*', async (route) => {
		await released;
		await route.continue();
	});
	const fetched = page.waitForRequest('**/chat/history?session_id=*');
	await page.goto(`${at.url}#s=${session_id}`);
	await fetched;
	await ask(page, 'Said after', 'quick');
	assert.equal(await page.locator('#question').inputValue(), 'Said after'); // it waits
	release();
	await page.locator('.answer .end p').nth(1).waitFor();
	assert.deepEqual(await page.locator('.asked').allTextContents(), ['Said before', 'Said after']);
	assert.equal(await page.evaluate(() => location.hash), `#s=${session_id}`);
	await page.unrouteAll({ behavior: 'wait' });
	await page.close();
});

test('what is forgotten is gone, in every tab', async () => {
	const one = await open(), two = await open();
	await ask(one, 'Forget me', 'quick');
	await ended(one);
	const id = await one.evaluate(() => location.hash.slice(3));
	await two.locator(`.session[data-id="${id}"]`).waitFor(); // told by the other tab
	await two.goto(one.url());
	await two.locator('.answer').waitFor();
	await one.getByRole('button', { name: 'Delete “Forget me”' }).click();
	await one.getByRole('button', { name: 'Delete', exact: true }).click();
	await one.getByText('What would you like to know?').waitFor();
	await until(async () => await two.locator(`.session[data-id="${id}"]`).count() === 0, 'the other list');
	await two.getByText('What would you like to know?').waitFor();
	await assert.rejects(tolld.history(id), { status: 404 });
	await one.close();
	await two.close();
});

test('without a history a conversation lasts as long as its tab', async () => {
	const page = await b.context.newPage();
	await page.route('**/chat/history*', (route) => route.fulfill({
		status: 404, json: { error: { code: 'not_found', message: 'no history is kept', type: 'invalid_request_error', param: null } },
	}));
	await page.goto(at.url);
	if (await page.locator('#door').isVisible())
		await signIn(page, key);
	await page.getByText('This service keeps no history.').waitFor();
	const sends = [];
	page.on('request', (r) => r.url().endsWith('/chat/send') && sends.push(r.postDataJSON()));
	await ask(page, 'First', 'quick');
	await ended(page);
	const text = await lastAnswer(page).locator('.text').textContent();
	await page.reload();
	await page.locator('.answer').waitFor();
	assert.equal(await page.locator('.asked').textContent(), 'First');
	await ask(page, 'Second', 'endless');
	await some(page, 60);
	assert.deepEqual(sends[1].messages, [{ role: 'user', content: 'First' }, { role: 'assistant', content: text }, { role: 'user', content: 'Second' }]);
	assert.equal(sends[1].message, undefined);
	await page.reload(); // and in mid-answer
	await some(page, 60);
	assert.deepEqual(await page.locator('.asked').allTextContents(), ['First', 'Second']);
	await page.keyboard.press('Escape');
	assert.match(await ended(page), /^Stopped/);
	await page.close();
});
