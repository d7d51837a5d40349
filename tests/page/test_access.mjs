// Goal:   everybody can use the page: by keyboard alone, by ear, on a phone, in the dark, in Russian,
//         and in a browser that cannot read streams.
// Method: Chromium as each of them would have it; names, roles and contrast computed from the page.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { account, ask, at, browser, ended, lastAnswer, provider, shot, signIn, some, until } from './harness.mjs';

const PROSE = '# Heading\n\nA [link](https://x.example), `code`, *emphasis*. Second sentence.\n\n> quote\n\n```js\nlet x;\n```\n\n' +
	'- item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThe last one.';
let key, p;

before(async () => {
	p = await provider({ prose: PROSE });
});
after(() => p.close());

async function within(options, body) {
	const b = await browser(options);
	try {
		key = await account();
		const page = await b.page();
		await body(page, b);
		await b.clean();
	} finally {
		await b.close();
	}
}

// --- what machines can see -----------------------------------------------------------------------

// What is wrong with names, roles and references of what is visible.
function namesWrong() {
	const wrong = [];
	const visible = (e) => e.checkVisibility({ visibilityProperty: true });
	const name = (e) => (e.getAttribute('aria-label') ?? '').trim() ||
		(e.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim() ||
		[...(e.labels ?? [])].map((l) => l.textContent).join(' ').trim() ||
		(['BUTTON', 'A'].includes(e.tagName) ? e.textContent.trim() : '');
	const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
	for (const id of ids)
		if (ids.filter((x) => x === id).length > 1)
			wrong.push(`id ${id} twice`);
	for (const e of document.querySelectorAll('button, a[href], input, select, textarea, progress, dialog[open], nav, aside, [role="log"], [role="group"]'))
		if (visible(e) && !name(e) && e.getAttribute('role') !== 'group')
			wrong.push(`no name: ${e.outerHTML.slice(0, 100)}`);
	for (const e of document.querySelectorAll('*')) {
		for (const about of ['aria-labelledby', 'aria-describedby', 'aria-controls', 'for'])
			for (const id of (e.getAttribute(about) ?? '').split(' ').filter(Boolean))
				if (!document.getElementById(id))
					wrong.push(`${about} of ${e.tagName} leads nowhere: ${id}`);
		if (e.tabIndex > 0)
			wrong.push(`tabindex ${e.tabIndex}`);
		if (e.tagName === 'IMG' && !e.hasAttribute('alt'))
			wrong.push('img without alt');
		if (e.closest('[aria-hidden="true"]') && e.tabIndex >= 0 && visible(e))
			wrong.push('focus in what is hidden');
		if (e.parentElement?.tagName === 'UL' && e.tagName !== 'LI')
			wrong.push('in a list, no item');
	}
	const h1 = [...document.querySelectorAll('h1')].filter(visible).length;
	if (h1 !== 1)
		wrong.push(`${h1} first headings`);
	if ([...document.querySelectorAll('main')].filter(visible).length !== 1)
		wrong.push('not one main');
	if (!document.documentElement.lang || !document.title)
		wrong.push('no language, or no title');
	return wrong;
}

// Text, and borders of what one writes into, against the ground that they stand on (WCAG 2.2 AA).
function contrastWrong() {
	const wrong = [];
	const parse = (c) => {
		const m = c.match(/[\d.]+/g).map(Number);
		return { r: m[0], g: m[1], b: m[2], a: m[3] ?? 1 };
	};
	const over = (top, under) => ({
		r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a), b: top.b * top.a + under.b * (1 - top.a), a: 1,
	});
	const light = ({ r, g, b }) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ratio = (a, b) => {
		const [x, y] = [light(a), light(b)].sort((m, n) => n - m);
		return (x + 0.05) / (y + 0.05);
	};
	const ground = (e) => {
		const layers = [];
		for (let n = e; n; n = n.parentElement)
			layers.push(parse(getComputedStyle(n).backgroundColor));
		return layers.reverse().reduce((under, top) => over(top, under), { r: 255, g: 255, b: 255, a: 1 });
	};
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let seen = 0;
	for (let t = walker.nextNode(); t; t = walker.nextNode()) {
		const e = t.parentElement;
		if (t.data.trim() === '' || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || e.closest('.unseen, option, noscript') || e.closest(':disabled'))
			continue;
		const s = getComputedStyle(e);
		const size = Number.parseFloat(s.fontSize);
		const need = size >= 24 || (size >= 18.66 && Number(s.fontWeight) >= 700) ? 3 : 4.5;
		const under = ground(e);
		const got = ratio(over(parse(s.color), under), under);
		seen++;
		if (got < need)
			wrong.push(`${got.toFixed(2)} < ${need}: "${t.data.trim().slice(0, 30)}" ${s.color}`);
	}
	for (const e of document.querySelectorAll('#key, #composer')) {
		if (!e.checkVisibility())
			continue;
		const under = ground(e.parentElement);
		const got = ratio(over(parse(getComputedStyle(e).borderTopColor), under), under);
		if (got < 3)
			wrong.push(`border ${got.toFixed(2)}: #${e.id}`);
	}
	return seen < 5 ? [`only ${seen} texts`] : wrong;
}

for (const scheme of ['light', 'dark'])
	test(`names, roles and contrast, ${scheme}`, () => within({ colorScheme: scheme }, async (page) => {
		const look = async (where) => {
			assert.deepEqual(await page.evaluate(namesWrong), [], where);
			assert.deepEqual(await page.evaluate(contrastWrong), [], where);
		};
		await look('door');
		await page.locator('#key').fill('nonsense');
		await page.keyboard.press('Enter');
		await page.getByRole('alert').filter({ hasText: 'not valid' }).waitFor();
		await look('door with a fault');
		await signIn(page, key);
		await page.getByText('What would you like').waitFor();
		await look('empty');
		await ask(page, 'Everything', 'prose');
		await ended(page);
		await look('an answer');
		await ask(page, 'Slowly', 'endless');
		await lastAnswer(page).locator('progress').waitFor();
		await look('under way');
		await page.keyboard.press('Escape');
		await ended(page);
		await page.locator('#question').fill('x');
		await page.locator('#price').filter({ hasText: 'About' }).waitFor();
		await look('stopped, with a price');
		await shot(page, `everything-${scheme}`);
		await page.getByRole('button', { name: 'Delete “Everything”' }).first().click();
		await page.locator('#confirm').waitFor();
		await look('a dialog');
		await shot(page, `dialog-${scheme}`);
		await page.keyboard.press('Escape');
		assert.ok(await page.locator('.answer').first().isVisible());
		// Hints stand on grounds of their own.
		for (const k of ['needy', 'empty']) {
			await page.getByRole('button', { name: 'Sign out' }).click();
			await signIn(page, at.keys[k]);
			await ask(page, 'Too dear', 'slow');
			if (k === 'empty')
				await page.locator('#hint').filter({ hasText: 'Your credit is used up' }).waitFor();
			else
				await Promise.race([lastAnswer(page).locator('.end').waitFor(), page.locator('#hint').waitFor()]);
			await look(`hint for ${k}`);
		}
	}));

// --- by keyboard ---------------------------------------------------------------------------------

test('by keyboard alone, with the focus always in sight', () => within({}, async (page) => {
	const focus = () => page.evaluate(() => {
		const e = document.activeElement, s = getComputedStyle(e), c = getComputedStyle(e.closest('#composer') ?? e);
		return { id: e.id, text: e.textContent.trim(), shown: (s.outlineStyle !== 'none' && Number.parseFloat(s.outlineWidth) > 0) || c.outlineStyle === 'solid' };
	});
	const tab = async (n = 1, k = 'Tab') => {
		for (let i = 0; i < n; i++)
			await page.keyboard.press(k);
		const f = await focus();
		assert.ok(f.shown, `no focus to be seen on ${JSON.stringify(f)}`);
		return f;
	};
	const to = async (id, k = 'Tab') => {
		for (let i = 0; i < 30; i++) {
			const f = await tab(1, k);
			if (f.id === id || f.text === id)
				return;
		}
		assert.fail(`${id} cannot be reached`);
	};
	await page.keyboard.type(key); // the focus is there
	assert.equal((await tab()).id, 'keep');
	assert.equal((await tab()).id, 'enter');
	await page.keyboard.press('Enter');
	await until(async () => (await focus()).id === 'question', 'the focus in the question');
	await to('model', 'Shift+Tab');
	await page.keyboard.type('endless');
	await until(async () => await page.locator('#model').inputValue() === 'endless', 'the model to be chosen');
	await to('question');
	await page.keyboard.type('First line');
	await page.keyboard.press('Shift+Enter');
	await page.keyboard.type('second line');
	await page.keyboard.press('Enter');
	assert.equal(await page.locator('.asked').textContent(), 'First line\nsecond line');
	await some(page, 40);
	assert.equal((await focus()).id, 'question');
	await page.keyboard.press('Escape');
	assert.match(await ended(page), /^Stopped/);
	assert.equal((await focus()).id, 'question');
	// Stop by its button: the focus is not lost with it.
	await page.keyboard.type('Again');
	await to('Send');
	await page.keyboard.press('Enter');
	await until(async () => (await focus()).id === 'stop', 'the focus on Stop');
	await some(page, 40);
	await page.keyboard.press('Enter');
	assert.match(await ended(page), /^Stopped/);
	assert.equal((await focus()).id, 'question');
	// From the top: the first thing is the way past the rest.
	await page.evaluate(() => document.activeElement.blur());
	await page.locator('body').evaluate((e) => {
		e.tabIndex = -1;
		e.focus();
		e.removeAttribute('tabindex');
	});
	assert.equal((await tab()).id, 'skip');
	await shot(page, 'skip-link');
	await page.keyboard.press('Enter');
	assert.equal((await focus()).id, 'question');
	assert.match(page.url(), /#s=/); // the address is as it was
	// Deleting asks first; Escape says no.
	await to('new', 'Shift+Tab');
	await tab(2);
	// The list is made anew now and then; what has the focus keeps it.
	const about = () => page.evaluate(() => document.activeElement.getAttribute('aria-label'));
	const button = await about();
	assert.match(button, /^Delete “First line/);
	await page.evaluate(() => {
		document.activeElement.dataset.old = 'yes';
		new BroadcastChannel('tolld').postMessage({ type: 'changed' });
	});
	await page.locator('[data-old]').waitFor({ state: 'detached' });
	assert.equal(await about(), button);
	await page.keyboard.press('Enter');
	await page.locator('#confirm').waitFor();
	await page.keyboard.press('Escape');
	await page.locator('#confirm').waitFor({ state: 'detached' });
	await page.keyboard.press('Enter');
	await page.locator('#confirm').waitFor();
	await to('confirm-yes');
	await page.keyboard.press('Enter');
	await page.getByText('What would you like to know?').waitFor();
	assert.equal((await focus()).id, 'new');
	await until(async () => await page.locator('.session.here').count() === 0, 'the list without it');
}));

test('a word that is being composed is not sent', () => within({}, async (page) => {
	await signIn(page, key);
	await page.locator('#question').fill('日本');
	await page.locator('#question').dispatchEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true });
	await page.locator('#question').dispatchEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true });
	assert.equal(await page.locator('.asked').count(), 0);
	assert.equal(await page.locator('#question').inputValue(), '日本');
}));

// --- by ear --------------------------------------------------------------------------------------

test('an answer is read aloud by sentences, and then how it ended', () => within({}, async (page) => {
	await signIn(page, key);
	await page.evaluate(() => {
		globalThis.spoken = [];
		new MutationObserver((list) => list.forEach((m) => m.addedNodes.forEach((n) => globalThis.spoken.push(n.textContent))))
			.observe(document.getElementById('speech'), { childList: true });
	});
	assert.equal(await page.locator('#speech').getAttribute('aria-live'), 'polite');
	assert.equal(await page.locator('#talk').getAttribute('aria-live'), 'off'); // else each word twice
	await ask(page, 'Aloud', 'prose');
	await ended(page);
	const spoken = await page.evaluate(() => globalThis.spoken);
	assert.ok(spoken.length >= 4, JSON.stringify(spoken));
	const all = spoken.join('\n');
	assert.match(spoken.at(-1), /^Complete \d+ tokens It cost [\d.]+ credits$/);
	for (const part of ['Heading', 'A link, code, emphasis.', 'Second sentence.', 'quote', 'Code block.', 'The last one.'])
		assert.equal(all.split(part).length, 2, `${part} once in ${JSON.stringify(spoken)}`);
	assert.doesNotMatch(all, /[*`#>|]|let x/);
	assert.equal(await lastAnswer(page).getAttribute('aria-busy'), null);
}));

// --- on a phone ----------------------------------------------------------------------------------

test('on a phone', () => within({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 }, async (page) => {
	const fits = async (where) => assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0, where);
	await fits('door');
	await shot(page, 'phone-sign-in');
	await signIn(page, key);
	await fits('empty');
	await ask(page, 'On the road\nwith two lines', 'prose');
	await ended(page);
	await fits('an answer');
	await page.locator('#question').fill('And then?');
	await page.locator('#price').filter({ hasText: 'About' }).waitFor();
	await shot(page, 'phone');
	await fits('a price');
	const [limit, send] = [await page.locator('#limit').boundingBox(), await page.locator('#send').boundingBox()];
	assert.ok(send.y < limit.y + limit.height && send.x > limit.x + limit.width - 1, 'the button is not in the same row');
	assert.ok(await page.locator('#side').isHidden());
	// Enter is a new line here.
	await page.locator('#question').press('Enter');
	assert.equal(await page.locator('#question').inputValue(), 'And then?\n');
	const menu = page.getByRole('button', { name: 'Show conversations' });
	assert.equal(await menu.getAttribute('aria-expanded'), 'false');
	await menu.tap();
	await page.locator('#side').waitFor();
	assert.equal(await menu.getAttribute('aria-expanded'), 'true');
	assert.ok(await page.locator('#main').evaluate((e) => e.inert));
	assert.ok(await page.locator('#side-close').evaluate((e) => e === document.activeElement));
	await until(async () => (await page.locator('#side').boundingBox()).x === 0, 'the side to be in');
	await shot(page, 'phone-side');
	const small = await page.evaluate(() => [...document.querySelectorAll('#side button, #side a')].filter((e) => e.checkVisibility())
		.map((e) => [e.id || e.textContent.trim(), e.getBoundingClientRect()]).filter(([, r]) => r.height < 32 || r.width < 32).map(([n]) => n));
	assert.deepEqual(small, []);
	await page.keyboard.press('Escape');
	await page.locator('#side').waitFor({ state: 'hidden' });
	assert.ok(await menu.evaluate((e) => e === document.activeElement));
	assert.ok(!await page.locator('#main').evaluate((e) => e.inert));
	await menu.tap();
	await page.getByRole('button', { name: 'New conversation' }).tap();
	await page.locator('#side').waitFor({ state: 'hidden' });
	await page.getByText('What would you like to know?').waitFor();
	for (const id of ['send', 'menu']) {
		const box = await page.locator(`#${id}`).boundingBox();
		assert.ok(box.width >= 44 && box.height >= 44, `${id} ${box.width}×${box.height}`);
	}
	// Upright, lying, and very small.
	for (const [width, height] of [[740, 360], [320, 480]]) {
		await page.setViewportSize({ width, height });
		await fits(`${width}`);
		assert.ok((await page.locator('#talk').boundingBox()).height > 80, `${width}×${height}`);
	}
}));

// --- light and dark ------------------------------------------------------------------------------

test('light and dark: by the system, or as it was chosen', () => within({ colorScheme: 'dark' }, async (page) => {
	const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
	const dark = await ground();
	await page.emulateMedia({ colorScheme: 'light' });
	const light = await ground();
	assert.notEqual(dark, light);
	await signIn(page, key);
	const button = page.getByRole('button', { name: /^Theme:/ });
	assert.equal(await button.textContent(), 'Theme: system');
	await button.click();
	await button.click();
	assert.equal(await button.textContent(), 'Theme: dark');
	assert.equal(await ground(), dark);
	// It is there before anything is painted.
	await page.addInitScript(() => document.addEventListener('readystatechange', () => {
		globalThis.early ??= document.documentElement.dataset.theme;
	}));
	await page.reload();
	assert.equal(await page.evaluate(() => globalThis.early), 'dark');
	assert.equal(await ground(), dark);
	await page.locator('#question').waitFor();
	await button.click();
	assert.equal(await button.textContent(), 'Theme: system');
	assert.equal(await ground(), light);
}));

test('motion that nobody asked for is left out', () => within({ reducedMotion: 'reduce' }, async (page) => {
	await signIn(page, key);
	await ask(page, 'Keep still', 'endless');
	await some(page);
	const animations = () => page.evaluate(() => // in one go: what is asked for is made anew with each word
		getComputedStyle(document.querySelector('.answer.runs .text > p:last-child'), '::after').animationName);
	assert.equal(await animations(), 'none');
	await page.emulateMedia({ reducedMotion: 'no-preference' });
	assert.equal(await animations(), 'blink');
	await page.keyboard.press('Escape');
	await ended(page);
}));

// --- languages -----------------------------------------------------------------------------------

test('in Russian', () => within({ locale: 'ru-RU' }, async (page) => {
	assert.equal(await page.evaluate(() => document.documentElement.lang), 'ru');
	await page.getByLabel('Ключ API', { exact: true }).fill(key);
	await page.getByRole('button', { name: 'Продолжить' }).click();
	await page.getByText('Что вы хотите узнать?').waitFor();
	await page.locator('#model').selectOption('quick');
	await page.locator('#question').fill('Расскажи короткую историю');
	await page.locator('#price').filter({ hasText: /^Примерно [\d,]+, максимум [\d,\u00a0]+ кредит/ }).waitFor();
	await page.getByRole('button', { name: 'Отправить' }).click();
	assert.match(await ended(page), /^12 токенов · Стоило 0,0\d+ кредита$/);
	await ask(page, 'Ещё', 'endless');
	await some(page);
	await page.getByRole('button', { name: 'Остановить' }).click();
	assert.match(await ended(page), /^Остановлено\. [\d\u00a0]+ токен/);
	await shot(page, 'russian');
	// Nothing was left in English but names.
	const words = await page.evaluate(() => document.body.innerText);
	const latin = words.match(/[A-Za-z]{3,}/g).filter((w) => !['Enter', 'Shift', 'Esc', 'API', 'tolld'].includes(w));
	const theirs = (await page.locator('.answer .text, #model option, .session .title').allTextContents()).join(' ');
	assert.deepEqual(latin.filter((w) => !theirs.includes(w)), []);
}));

// --- without streams -----------------------------------------------------------------------------

test('where no streams are to be had, the answer comes at once', () => within({}, async (page, b) => {
	await b.context.addInitScript(() => {
		delete globalThis.ReadableStream;
	});
	const calls = [];
	page.on('request', (r) => calls.push(new URL(r.url()).pathname));
	await page.reload();
	await signIn(page, key);
	assert.equal(await page.evaluate(() => typeof ReadableStream), 'undefined');
	// As this daemon has it.
	await ask(page, 'All at once', 'story');
	assert.match(await ended(page), /^60 tokens · It cost/);
	assert.ok((await lastAnswer(page).locator('.text').textContent()).length > 100);
	assert.ok(calls.includes('/api/chat'));
	// And as one that answers, and one that refuses.
	await page.route('**/api/chat', (route) => route.fulfill({
		json: { message: 'All of **it**.', finish_reason: 'length', cost: 0.5, usage: { completion_tokens: 4 }, session_id: 'abc' },
	}));
	await page.locator('#limit').selectOption('256');
	await ask(page, 'Once more');
	assert.equal(await ended(page), 'Cut: it reached its limit of 4 tokens. 4 tokens · It cost 0.5 credits');
	assert.equal(await lastAnswer(page).locator('strong').textContent(), 'it');
	await page.unroute('**/api/chat');
	await page.route('**/api/chat', (route) => route.fulfill({
		status: 502, json: { error: { code: 'upstream_error', message: 'm', type: 'server_error' } },
	}));
	await ask(page, 'Fail');
	await page.locator('#hint').filter({ hasText: 'It could not be sent: the model’s provider failed.' }).waitFor();
	assert.equal(await page.locator('#question').inputValue(), 'Fail');
}));
