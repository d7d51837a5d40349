// What the browser's tests share: one Chromium, the page in it, a provider that says what a test
// wants said, and a wire between browser and daemon that a test can cut.
//
// Started by run.py, which says in the environment where all is.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { createRequire } from 'node:module';
import { promisify } from 'node:util';

export const at = JSON.parse(process.env.TOLLD_PAGE);
const require = createRequire(path.resolve(at.npm, 'package.json'));
const { chromium } = require('playwright-core');

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/snap/bin/chromium'].find((p) => fs.existsSync(p));
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
	'--disable-background-networking', '--disable-component-update', '--disable-sync'];

export async function until(condition, what, seconds = 60) {
	const end = Date.now() + seconds * 1000;
	for (;;) {
		const value = await condition();
		if (value)
			return value;
		if (Date.now() > end)
			throw new Error(`waited ${seconds} s for ${what}`);
		await new Promise((r) => setTimeout(r, 20));
	}
}

// --- the browser ---------------------------------------------------------------------------------

// A browser of its own for a test, with an empty folder, which close() removes.  What goes wrong in
// any of its pages is kept in `faults`: errors, refused scripts and styles, requests to elsewhere.
export async function browser(options = {}) {
	const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'tolld-page-'));
	const context = await chromium.launchPersistentContext(folder, {
		executablePath: CHROMIUM, headless: true, args: FLAGS, locale: 'en-US',
		viewport: { width: 1200, height: 800 }, ...options,
	});
	const faults = [];
	const origins = new Set([at.url]);
	context.setDefaultTimeout(60000);
	await context.addInitScript(() => {
		globalThis.violations = [];
		document.addEventListener('securitypolicyviolation', (e) =>
			globalThis.violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
	});
	context.on('page', watch);
	context.pages().forEach(watch);
	function watch(page) {
		page.on('pageerror', (e) => faults.push(`error: ${e.stack ?? e}`));
		page.on('dialog', (d) => {
			faults.push(`dialog: ${d.message()}`);
			d.dismiss();
		});
		page.on('console', (m) => {
			// What the network does is what tests do to it.
			if (m.type() === 'error' && !/net::ERR|Failed to load resource/.test(m.text()))
				faults.push(`console: ${m.text()}`);
		});
		page.on('request', (r) => {
			const { origin, protocol } = new URL(r.url());
			if (protocol !== 'data:' && !origins.has(origin))
				faults.push(`request: ${r.url()}`);
		});
	}
	return {
		context, faults,
		// Another door to the same daemon (a wire's).
		allow: (url) => origins.add(url),
		async page(url = at.url) {
			const page = context.pages().find((p) => p.url() === 'about:blank') ?? await context.newPage();
			await page.goto(url);
			return page;
		},
		// Nothing may have gone wrong unseen.
		async clean() {
			for (const page of context.pages())
				if (page.url().startsWith('http'))
					faults.push(...await page.evaluate(() => globalThis.violations));
			assert.deepEqual(faults, []);
		},
		async close() {
			await context.close();
			fs.rmSync(folder, { recursive: true, force: true });
		},
	};
}

export async function signIn(page, key) {
	await page.getByLabel('API key', { exact: true }).fill(key);
	await page.getByRole('button', { name: 'Continue' }).click();
	await page.locator('#question').waitFor();
}

export async function choose(page, model) {
	await page.locator('#model').selectOption(model);
}

// Writes a question and sends it.
export async function ask(page, text, model) {
	if (model)
		await choose(page, model);
	await page.locator('#question').fill(text);
	await page.locator('#send').click();
}

export const lastAnswer = (page) => page.locator('.answer').last();

// So many characters of the last answer have come: what is said while it is waited for is none of it.
export const some = (page, n = 20) => until(async () =>
	(await lastAnswer(page).locator('.text:not(:has(> .wait))').allTextContents()).join('').length > n, 'some text');

// The last answer's end, in words.
export async function ended(page) {
	const end = lastAnswer(page).locator('.end p');
	await end.waitFor();
	return end.textContent();
}

export async function shot(page, name) {
	await page.screenshot({ path: path.join(at.shots, `${name}.png`) });
}

// A button that says so for a moment, when it has copied.
export async function copies(within, name) {
	const said = within.getByText('Copied').waitFor();
	await within.getByRole('button', { name, exact: true }).click();
	await said;
}

export async function balance(key) {
	const r = await fetch(`${at.url}/balance`, { headers: { authorization: `Bearer ${key}` } });
	return r.json();
}

// --- a provider ----------------------------------------------------------------------------------

// Answers each model with its text, in pieces of a few characters, some time apart; model "endless"
// with numbers, until it is told that they are enough.
export async function provider(texts = {}, { ms = 5 } = {}) {
	const never = () => false;
	let enough = never, cancelled = 0;
	const server = http.createServer((req, res) => {
		let body = '';
		req.on('data', (d) => {
			body += d;
		});
		req.on('end', async () => {
			const { model } = JSON.parse(body);
			const told = enough;
			const say = (about) => res.write(`data: ${JSON.stringify(about)}\n\n`);
			const pause = (n) => new Promise((r) => setTimeout(r, n));
			const piece = (content) => say({ choices: [{ index: 0, delta: { content }, finish_reason: null }] });
			res.on('close', () => {
				cancelled += res.writableEnded ? 0 : 1;
			});
			res.writeHead(200, { 'content-type': 'text/event-stream' });
			if (model === 'endless') {
				for (let i = 0; !res.destroyed && !told(); i++) {
					piece(`${i} `);
					await pause(40);
				}
			} else {
				const letters = Array.from(texts[model] ?? 'I have nothing to say.');
				const n = Math.max(7, Math.ceil(letters.length / 500));
				for (let i = 0; i < letters.length && !res.destroyed; i += n) {
					piece(letters.slice(i, i + n).join(''));
					if (ms > 0)
						await pause(ms);
				}
			}
			say({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });
			res.end('data: [DONE]\n\n');
		});
	});
	await new Promise((r) => server.listen(at.provider, '127.0.0.1', r));
	return {
		// The endless answers that begin before then end when the function is called that this gives.
		endless() {
			let over = false;
			enough = () => over;
			return () => {
				over = true;
				enough = never;
			};
		},
		// How many answers it was not let end.
		cancelled: () => cancelled,
		close: () => new Promise((r) => {
			server.closeAllConnections();
			server.close(r);
		}),
	};
}

// --- a wire --------------------------------------------------------------------------------------

// A way to the daemon that can be cut: all that goes over it breaks, and nothing new comes through
// until mend().  after: each connection breaks by itself when so many bytes have come back over it.
export async function wire(t, { after = () => Infinity } = {}) {
	const { hostname, port } = new URL(at.url);
	const open = new Set();
	let up = true;
	const server = net.createServer((client) => {
		if (!up) {
			client.resetAndDestroy();
			return;
		}
		const daemon = net.connect(Number(port), hostname);
		const pair = { client, daemon };
		let left = after();
		const both = () => {
			open.delete(pair);
			client.destroy();
			daemon.destroy();
		};
		open.add(pair);
		client.on('error', both).on('close', both);
		daemon.on('error', both).on('close', both);
		client.pipe(daemon);
		daemon.on('data', (d) => {
			if (d.length > left) {
				client.write(d.subarray(0, left), () => client.resetAndDestroy());
				daemon.destroy();
				return;
			}
			left -= d.length;
			if (!client.write(d)) {
				daemon.pause();
				client.once('drain', () => daemon.resume());
			}
		});
	});
	await new Promise((r) => server.listen(0, '127.0.0.1', r));
	const cut = () => {
		up = false;
		for (const { client, daemon } of open) {
			client.resetAndDestroy();
			daemon.destroy();
		}
	};
	t.after(() => {
		cut();
		server.close();
	});
	return {
		url: `http://127.0.0.1:${server.address().port}`,
		cut,
		mend() {
			up = true;
		},
	};
}

// --- the operator --------------------------------------------------------------------------------

export async function tollctl(...args) {
	const { stdout } = await promisify(execFile)(at.tollctl, ['-s', at.socket, ...args]);
	return stdout;
}

let accounts = 0;

// A key of an account that has said nothing yet.
export async function account() {
	const name = `page-${process.pid}-${++accounts}`;
	await tollctl('account', 'create', name, '--balance', '1000');
	return JSON.parse(await tollctl('--json', 'key', 'create', name)).key;
}
