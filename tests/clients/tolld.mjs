// What the clients' tests share: where the daemon is, the packages, and a fetch that counts.
//
// Started by run.py, which says all that in the environment; nothing here starts a process.
import { createRequire } from 'node:module';
import path from 'node:path';

export const at = JSON.parse(process.env.TOLLD_CLIENTS);
export const require = createRequire(path.resolve(at.npm, 'package.json'));

// Where a package differs between the protocols: models of the same simulated provider, asked in
// each of the dialects that it speaks.
export const DIALECTS = ['openai', 'anthropic', 'ollama'];

// A model that run.py put into the config: what the provider does, by the provider's dialect.
export const model = (name, dialect = 'openai') => `${name}@${dialect}`;

export function counting() {
	const f = async (...args) => {
		f.calls++;
		return fetch(...args);
	};
	f.calls = 0;
	return f;
}

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

// How many calls the provider saw end before their time.
export async function cancelled() {
	return (await (await fetch(`${at.sim}/sim/stats`)).json()).cancelled;
}

// The sum that the books hold against an account.
export async function balance(key) {
	const r = await fetch(`${at.url}/balance`, { headers: { authorization: `Bearer ${key}` } });
	return r.json();
}

export const HELLO = [{ role: 'user', content: 'hello there' }];
