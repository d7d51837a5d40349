// Goal:   a person with a key asks, sees the price, watches the answer and learns what it cost.
// Method: the page in Chromium, the simulated provider behind the daemon.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { ask, at, balance, browser, choose, copies, ended, lastAnswer, provider, shot, signIn, some, tollctl, until } from './harness.mjs';

let b, p, page;
const key = at.keys.answer;

before(async () => {
	p = await provider();
	b = await browser();
});
after(async () => {
	await b.clean();
	await b.close();
	await p.close();
});

test('the key is asked for, tried, and never in an address', async () => {
	page = await b.page();
	assert.ok(await page.getByRole('heading', { name: 'Sign in with your key' }).isVisible());
	assert.ok(await page.locator('#key').evaluate((e) => e === document.activeElement));
	assert.equal(await page.locator('#key').getAttribute('type'), 'password');
	await shot(page, 'sign-in');
	await page.locator('#key').fill('tolld_nonsense');
	await page.keyboard.press('Enter');
	await page.getByRole('alert').filter({ hasText: 'not valid' }).waitFor();
	const urls = [];
	page.on('request', (r) => urls.push(r.url()));
	await signIn(page, key);
	assert.ok(urls.length > 0 && urls.every((u) => !u.includes(key)));
	assert.deepEqual(await page.evaluate(() => [sessionStorage.getItem('tolld.key'), localStorage.getItem('tolld.key')]), [key, null]);
	await page.getByText('What would you like to know?').waitFor();
	assert.equal(await page.locator('#available').textContent(), '1,200');
	assert.equal(await page.locator('#balance').textContent(), '1,000');
	await until(() => page.locator('#question').evaluate((e) => e === document.activeElement), 'the focus in the question');
});

test('models are the account’s, and the service’s own is chosen', async () => {
	const names = await page.locator('#model option').allTextContents();
	assert.ok(names.includes('story') && names.includes('sim'), `${names}`);
	assert.equal(await page.locator('#model').inputValue(), 'sim'); // default_model
	await choose(page, 'story');
	assert.deepEqual(await page.locator('#limit option').allTextContents(), ['the model’s maximum', '256 tokens', '1,024 tokens']);
});

test('the price is there while one types', async () => {
	const asked = [];
	page.on('request', (r) => r.url().endsWith('/chat/preview') && asked.push(r.postDataJSON()));
	await page.locator('#question').evaluate((e) => { // pauses as they are, on a machine that makes some of its own
		let last = 0;
		globalThis.pauses = 0;
		e.addEventListener('input', () => {
			const now = performance.now();
			globalThis.pauses += now - last > 290;
			last = now;
		});
	});
	await page.locator('#question').pressSequentially('How long is the road to the mill?', { delay: 10 });
	await page.locator('#price').filter({ hasText: /About [\d.]+, at most [\d.]+ credits/ }).waitFor();
	await until(() => asked.at(-1)?.message === 'How long is the road to the mill?', 'the last price');
	const pauses = await page.evaluate(() => globalThis.pauses);
	assert.ok(asked.length <= pauses, `${asked.length} previews in ${pauses} pauses`);
	const most = async () => Number((await page.locator('#price').textContent()).match(/most ([\d.]+)/)[1]);
	const all = await most();
	await page.locator('#limit').selectOption('256');
	await until(async () => await most() < all, 'a lower price');
	assert.equal(asked.at(-1).max_tokens, 256);
	assert.equal((await balance(key)).held, 0);
	await page.locator('#limit').selectOption('0');
	await shot(page, 'price');
});

test('the answer comes as it is written, then what it cost', async () => {
	const before = (await balance(key)).balance;
	await page.evaluate(() => { // something is to be read at any moment, if only that it is on its way
		globalThis.empty = 0;
		globalThis.seen = new Set();
		globalThis.bar = 0;
		new MutationObserver(() => {
			globalThis.empty += document.querySelectorAll('.answer.runs .text:empty').length;
			const answer = document.querySelector('.answer.runs');
			if (answer)
				globalThis.seen.add(answer.querySelector('.text').textContent);
			if (answer?.querySelector('progress').checkVisibility())
				globalThis.bar = Math.max(globalThis.bar, answer.querySelector('progress').position);
		}).observe(document.body, { childList: true, subtree: true, characterData: true });
	});
	const enough = p.endless();
	await choose(page, 'endless');
	await page.locator('#question').focus();
	await page.keyboard.press('Shift+Enter'); // a new line; nothing is sent, and it is not kept at the end
	await page.keyboard.press('Enter');
	await page.waitForFunction(() => globalThis.seen.size > 4 && globalThis.bar > 0);
	enough();
	const words = await ended(page);
	const { empty, bar } = await page.evaluate(() => ({ empty: globalThis.empty, bar: globalThis.bar }));
	assert.equal(empty, 0);
	assert.ok(bar < 1, `the bar stood at ${bar}`);
	const cost = Number(words.match(/^[\d,]+ tokens · It cost ([\d.]+) credits$/)?.[1]);
	const now = await balance(key);
	assert.equal(Math.round((before - now.balance) * 1e6), Math.round(cost * 1e6), words);
	assert.equal(now.held, 0);
	assert.equal(await page.locator('.asked').textContent(), 'How long is the road to the mill?');
	await until(async () => (await page.locator('#balance').textContent()) === String(Math.floor(now.balance * 100) / 100), 'the new balance');
	assert.equal(await page.title(), 'How long is the road to the mill? – Chat');
	assert.match(page.url(), /#s=[\w-]+$/);
	await page.locator('.session.here').filter({ hasText: 'How long is the road' }).waitFor();
	assert.equal(await page.locator('#question').inputValue(), '');
});

test('an answer in its own words: a limit that was reached', async () => {
	await page.locator('#limit').selectOption('256');
	await ask(page, 'Go on', 'slow');
	const words = await ended(page);
	assert.match(words, /^Cut: it reached its limit of 256 tokens\. 256 tokens · It cost [\d.]+ credits$/);
	await page.locator('#limit').selectOption('0');
});

test('stop ends it at once, and is paid up to there', async () => {
	await ask(page, 'Tell me a long one', 'endless');
	await some(page, 40);
	await page.locator('#stop').click();
	assert.match(await ended(page), /^Stopped\. [\d,]+ tokens · It cost [\d.]+ credits$/);
	await until(async () => (await balance(key)).held === 0, 'nothing to be held');
	assert.ok(await page.locator('#send').isVisible());
	// Escape does the same.
	await ask(page, 'Another', 'endless');
	await some(page, 40);
	await page.keyboard.press('Escape');
	assert.match(await ended(page), /^Stopped\./);
});

test('what broke is said, and can be tried again', async () => {
	const answers = await page.locator('.answer').count();
	await ask(page, 'Break', 'broken');
	assert.match(await ended(page), /^It did not end well: .*failed\. It cost [\d.]+ credits$/);
	await choose(page, 'quick');
	await lastAnswer(page).getByRole('button', { name: 'Try again' }).click();
	await until(async () => await page.locator('.answer').count() === answers + 2, 'another answer');
	assert.match(await ended(page), /^12 tokens · It cost/);
	assert.equal(await page.locator('.asked').last().textContent(), 'Break');
	assert.equal(await page.getByRole('button', { name: 'Try again' }).count(), 0); // the last one only
	await ask(page, 'No key', 'refused');
	assert.match(await ended(page), /^It did not end well: .*failed.* Nothing was charged$/);
});

test('an answer and its code can be copied', async () => {
	await b.context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: at.url });
	await ask(page, 'Once more', 'quick');
	await ended(page);
	await copies(lastAnswer(page), 'Copy');
	assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await lastAnswer(page).locator('.text').textContent());
});

test('a new conversation is empty, and the back button returns', async () => {
	const url = page.url();
	const asked = await page.locator('.asked').count();
	await page.getByRole('button', { name: 'New conversation' }).click();
	await page.getByText('What would you like to know?').waitFor();
	assert.equal(await page.locator('.asked').count(), 0);
	await page.goBack();
	await until(async () => await page.locator('.asked').count() === asked, 'the old one');
	assert.equal(page.url(), url);
});

test('a credit that runs out is said, with a way on', async () => {
	const other = await b.page('about:blank');
	const poor = await b.context.newPage();
	await other.close();
	await poor.goto(at.url);
	await signIn(poor, at.keys.poor);
	await ask(poor, 'All you have', 'endless');
	const words = await ended(poor);
	assert.match(words, /^Cut: your credit ran out here\. All that you see is paid\. \d+ tokens · It cost 0\.14\d+ credits$/);
	await poor.locator('#hint').filter({ hasText: 'Your credit is used up' }).waitFor();
	assert.match(await poor.locator('#available').textContent(), /^0\.00\d+$/);
	await shot(poor, 'credit-cut');
	// Nothing more is let in, and the question is not lost.
	await ask(poor, 'And this?');
	await poor.locator('#hint').filter({ hasText: /This needs at least 0\.\d+ credits, and 0\.00\d+ credits are there\..*topped up/ }).waitFor();
	await until(async () => await poor.locator('#question').inputValue() === 'And this?', 'the question back');
	assert.equal(await poor.locator('.asked').count(), 1);
	await poor.locator('#price').filter({ hasText: /^Not enough credit for this$/ }).waitFor();
	await tollctl('topup', 'poor', '5');
	await poor.locator('#send').click();
	await some(poor);
	assert.equal(await poor.locator('.answer').count(), 2);
	assert.ok(await poor.locator('#hint').isHidden());
	await poor.close();
});

test('a budget and a cap are no lack of credit, and are called what they are', async () => {
	await until(() => Date.now() % 86400000 < 86400000 - 120000, 'the next day, in UTC', 130);
	await tollctl('account', 'create', 'thrifty', '--balance', '100', '--budget-day', '0.1');
	const daily = JSON.parse(await tollctl('--json', 'key', 'create', 'thrifty')).key;
	await tollctl('account', 'create', 'capped', '--balance', '100');
	const capped = JSON.parse(await tollctl('--json', 'key', 'create', 'capped', '--cap', '0.1', '--per', 'total')).key;
	const p = await b.context.newPage();
	await p.goto(at.url);
	for (const [k, words, hint] of [[daily, /^Cut: the budget for the day was used up here\./, 'The budget for the day'],
		[capped, /^Cut: this key’s spending cap was reached here\./, 'spending cap']]) {
		await signIn(p, k);
		await ask(p, 'Within reason', 'slow');
		assert.match(await ended(p), words);
		await p.locator('#hint').filter({ hasText: hint }).waitFor();
		await ask(p, 'More');
		await until(async () => await p.locator('#question').inputValue() === 'More', 'the question back');
		await p.locator('#hint').filter({ hasText: hint }).waitFor();
		await p.getByRole('button', { name: 'Sign out' }).click();
	}
	await p.close();
});

test('a key that was revoked leads back to the door', async () => {
	const made = JSON.parse(await tollctl('--json', 'key', 'create', 'answer'));
	const p = await b.context.newPage();
	await p.goto(at.url);
	await signIn(p, made.key);
	await p.route('**/chat/preview', (route) => route.abort()); // else the price might say so before it is sent
	await tollctl('key', 'revoke', made.key_id);
	await ask(p, 'Am I still here?');
	await p.getByRole('alert').filter({ hasText: 'revoked or has expired' }).waitFor();
	assert.equal(await p.evaluate(() => sessionStorage.getItem('tolld.key')), null);
	await p.close();
});

test('signing out leaves nothing, and a remembered key comes back', async () => {
	const kept = () => page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }]));
	await page.getByRole('button', { name: 'Sign out' }).click();
	await page.getByRole('heading', { name: 'Sign in with your key' }).waitFor();
	const left = await kept();
	assert.ok(!left.includes(key) && !left.includes('mill'), left);
	assert.ok(!page.url().includes('#'));
	await page.getByLabel('Remember on this device').check();
	await signIn(page, key);
	assert.equal(await page.evaluate(() => localStorage.getItem('tolld.key')), key);
	const again = await b.context.newPage();
	await again.goto(at.url);
	await again.locator('#question').waitFor();
	await again.getByRole('button', { name: 'Sign out' }).click();
	await again.getByRole('heading', { name: 'Sign in with your key' }).waitFor();
	assert.ok(!(await again.evaluate(() => JSON.stringify({ ...localStorage }))).includes(key));
	await again.close();
});
