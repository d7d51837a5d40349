// What the page says, in English and Russian, and how it writes numbers and times.

const en = {
	brand: 'tolld',
	skip: 'Skip to the question',
	leave: 'Sign out',
	no: 'Cancel',
	model: 'Model',
	'page.title': 'Chat',
	'door.title': 'Sign in with your key',
	'door.text': 'Whoever runs this service gave you an API key.',
	'door.key': 'API key',
	'door.keep': 'Remember on this device',
	'door.enter': 'Continue',
	'door.note': 'The key stays in this browser. Unless it is to be remembered, closing the tab forgets it.',
	'door.wrong': 'This key is not valid here.',
	'door.scope': 'This key may not be used for chat.',
	'door.expired': 'The key was revoked or has expired. Sign in again.',
	'door.unreachable': 'The service cannot be reached. Try again in a moment.',
	'side.label': 'Conversations and credit',
	'side.sessions': 'Conversations',
	'side.new': 'New conversation',
	'side.more': 'Show earlier ones',
	'side.open': 'Show conversations',
	'side.close': 'Close',
	'side.none': 'Nothing yet. What you ask will be listed here.',
	'side.off': 'This service keeps no history. Conversations last as long as this tab.',
	'side.untitled': 'Untitled',
	'side.forget': 'Delete “{title}”',
	'side.running': 'answering',
	'forget.title': 'Delete this conversation?',
	'forget.text': '“{title}” and all its messages will be gone for good.',
	'forget.yes': 'Delete',
	'forget.done': 'Conversation deleted.',
	'forget.failed': 'It could not be deleted: {why}',
	'credit.label': 'Credit',
	'credit.available': 'Available',
	'credit.balance': 'Balance',
	'credit.held': 'Set aside',
	'theme.system': 'Theme: system',
	'theme.light': 'Theme: light',
	'theme.dark': 'Theme: dark',
	'state.open': 'Connected',
	'state.connecting': 'Connecting…',
	'state.waiting': 'Connection lost. Trying again in {seconds} s',
	'state.offline': 'You are offline. The answer goes on when you are back.',
	'talk.label': 'Conversation',
	'talk.down': 'To the latest message',
	'talk.you': 'You asked',
	'talk.answer': 'Answer',
	'talk.earlier': 'Show earlier messages',
	'hello.title': 'What would you like to know?',
	'hello.text': 'You see what it will cost before you send it, and pay only for what was answered.',
	'ask.label': 'Your question',
	'ask.hint': 'Ask anything',
	'ask.send': 'Send',
	'ask.stop': 'Stop',
	'ask.keys': 'Enter sends, Shift+Enter makes a new line, Esc stops the answer.',
	'limit.label': 'At most',
	'limit.all': 'the model’s maximum',
	'limit.tokens': { one: '{n} token', other: '{n} tokens' },
	'price.about': 'About {cost}, at most {max}',
	'price.short': 'Not enough credit for this',
	'price.unknown': 'The price is not known just now',
	tokens: { one: '{n} token', other: '{n} tokens' },
	credits: { one: '{n} credit', other: '{n} credits' },
	'meter.label': 'Length of the answer',
	'meter.text': '{n} of {max} tokens',
	'meter.cost': '{cost} so far',
	'end.stop': 'Complete',
	'end.length': 'Cut: it reached its limit of {tokens}.',
	'end.credit': 'Cut: your credit ran out here. All that you see is paid.',
	'end.key_cap': 'Cut: this key’s spending cap was reached here. All that you see is paid.',
	'end.budget_day': 'Cut: the budget for the day was used up here. All that you see is paid.',
	'end.budget_month': 'Cut: the budget for the month was used up here. All that you see is paid.',
	'end.cancelled': 'Stopped.',
	'end.tool_calls': 'It ends with a call of a tool, which this page does not run.',
	'end.content_filter': 'Cut by the provider’s content filter.',
	'end.failed': 'It did not end well: {why}',
	'end.running': 'It is being answered elsewhere.',
	'end.cost': 'It cost {cost}',
	'end.free': 'Nothing was charged',
	'end.owed': 'It will cost {cost}',
	'hint.empty': 'Your credit is used up. Ask whoever runs this service to top up your account, then try again.',
	'hint.short': 'This needs at least {required}, and {available} are there. Shorten it, choose a cheaper model, or have your account topped up.',
	'hint.less': 'Your credit does not cover this. Shorten it, choose a cheaper model, or have your account topped up.',
	'hint.low': 'Your credit is running low: {available} left.',
	'hint.budget_day': 'The budget for the day does not cover this. It begins anew at midnight (UTC).',
	'hint.budget_month': 'The budget for the month does not cover this. It begins anew on the first (UTC).',
	'hint.key_cap': 'This key has reached its spending cap. Ask whoever gave it to you.',
	'hint.limit': { one: 'Too many requests. You can go on in {n} second.', other: 'Too many requests. You can go on in {n} seconds.' },
	'answer.copy': 'Copy',
	'answer.copied': 'Copied',
	'answer.retry': 'Try again',
	'answer.thinking': 'Waiting for the first word…',
	'code.copy': 'Copy the code',
	'code.label': 'Code',
	'speech.code': 'Code block.',
	'fault.network': 'The connection to the service is lost.',
	'fault.upstream_error': 'the model’s provider failed.',
	'fault.upstream_timeout': 'the model’s provider did not answer in time.',
	'fault.upstream_truncated': 'the answer broke off at the provider.',
	'fault.overloaded': 'the service is busy. Try again in a moment.',
	'fault.draining': 'the service was restarted.',
	'fault.expired': 'it was not started in time.',
	'fault.stream_lost': 'the service lost it. What was kept of it is above.',
	'fault.journal_unavailable': 'the service cannot write its books just now.',
	'fault.model_not_found': 'this model is not there any more.',
	'fault.not_found': 'it is not there any more.',
	'fault.failed': 'what came of it is above.',
	'fault.other': '{message}',
	'fault.send': 'It could not be sent: {why}',
	'fault.load': 'The conversation could not be loaded: {why}',
};

const ru = {
	brand: 'tolld',
	skip: 'К полю вопроса',
	leave: 'Выйти',
	no: 'Отмена',
	model: 'Модель',
	'page.title': 'Чат',
	'door.title': 'Вход по ключу',
	'door.text': 'Ключ API выдаёт тот, кто управляет этой службой.',
	'door.key': 'Ключ API',
	'door.keep': 'Запомнить на этом устройстве',
	'door.enter': 'Продолжить',
	'door.note': 'Ключ остаётся в этом браузере. Если его не запоминать, он забудется вместе с вкладкой.',
	'door.wrong': 'Этот ключ здесь не действует.',
	'door.scope': 'Этот ключ не годится для чата.',
	'door.expired': 'Ключ отозван или истёк. Войдите заново.',
	'door.unreachable': 'Служба недоступна. Попробуйте чуть позже.',
	'side.label': 'Беседы и счёт',
	'side.sessions': 'Беседы',
	'side.new': 'Новая беседа',
	'side.more': 'Показать более ранние',
	'side.open': 'Показать беседы',
	'side.close': 'Закрыть',
	'side.none': 'Пока пусто. Здесь появится список ваших бесед.',
	'side.off': 'Эта служба не хранит историю. Беседа живёт, пока открыта вкладка.',
	'side.untitled': 'Без названия',
	'side.forget': 'Удалить «{title}»',
	'side.running': 'отвечает',
	'forget.title': 'Удалить эту беседу?',
	'forget.text': '«{title}» и все её сообщения исчезнут навсегда.',
	'forget.yes': 'Удалить',
	'forget.done': 'Беседа удалена.',
	'forget.failed': 'Удалить не удалось: {why}',
	'credit.label': 'Счёт',
	'credit.available': 'Доступно',
	'credit.balance': 'Остаток',
	'credit.held': 'Отложено',
	'theme.system': 'Тема: как в системе',
	'theme.light': 'Тема: светлая',
	'theme.dark': 'Тема: тёмная',
	'state.open': 'На связи',
	'state.connecting': 'Соединение…',
	'state.waiting': 'Связь прервалась. Новая попытка через {seconds} с',
	'state.offline': 'Нет сети. Ответ продолжится, когда она появится.',
	'talk.label': 'Беседа',
	'talk.down': 'К последнему сообщению',
	'talk.you': 'Вы спросили',
	'talk.answer': 'Ответ',
	'talk.earlier': 'Показать более ранние сообщения',
	'hello.title': 'Что вы хотите узнать?',
	'hello.text': 'Цена видна до отправки, а платите вы только за то, что получили.',
	'ask.label': 'Ваш вопрос',
	'ask.hint': 'Спросите о чём угодно',
	'ask.send': 'Отправить',
	'ask.stop': 'Остановить',
	'ask.keys': 'Enter — отправить, Shift+Enter — новая строка, Esc — остановить ответ.',
	'limit.label': 'Не более',
	'limit.all': 'сколько может модель',
	'limit.tokens': { one: '{n} токена', few: '{n} токенов', many: '{n} токенов', other: '{n} токена' },
	'price.about': 'Примерно {cost}, максимум {max}',
	'price.short': 'На это не хватает средств',
	'price.unknown': 'Цена сейчас неизвестна',
	tokens: { one: '{n} токен', few: '{n} токена', many: '{n} токенов', other: '{n} токена' },
	credits: { one: '{n} кредит', few: '{n} кредита', many: '{n} кредитов', other: '{n} кредита' },
	'meter.label': 'Длина ответа',
	'meter.text': '{n} из {max} токенов',
	'meter.cost': 'пока {cost}',
	'end.stop': 'Готово',
	'end.length': 'Обрезано: достигнут предел, {tokens}.',
	'end.credit': 'Обрезано: здесь закончились средства. Всё, что вы видите, оплачено.',
	'end.key_cap': 'Обрезано: здесь достигнут предел расходов ключа. Всё, что вы видите, оплачено.',
	'end.budget_day': 'Обрезано: здесь закончился бюджет дня. Всё, что вы видите, оплачено.',
	'end.budget_month': 'Обрезано: здесь закончился бюджет месяца. Всё, что вы видите, оплачено.',
	'end.cancelled': 'Остановлено.',
	'end.tool_calls': 'Ответ завершён вызовом инструмента; эта страница их не выполняет.',
	'end.content_filter': 'Обрезано фильтром поставщика модели.',
	'end.failed': 'Ответ оборвался: {why}',
	'end.running': 'На это отвечают в другом месте.',
	'end.cost': 'Стоило {cost}',
	'end.free': 'Ничего не списано',
	'end.owed': 'Будет списано {cost}',
	'hint.empty': 'Средства закончились. Попросите того, кто управляет службой, пополнить счёт и повторите.',
	'hint.short': 'Нужно хотя бы {required}, а доступно {available}. Сократите вопрос, выберите модель дешевле или пополните счёт.',
	'hint.less': 'На это не хватает средств. Сократите вопрос, выберите модель дешевле или пополните счёт.',
	'hint.low': 'Средства на исходе: осталось {available}.',
	'hint.budget_day': 'Бюджета на сегодня на это не хватает. Он обновится в полночь (UTC).',
	'hint.budget_month': 'Бюджета на месяц на это не хватает. Он обновится первого числа (UTC).',
	'hint.key_cap': 'Этот ключ исчерпал свой предел расходов. Обратитесь к тому, кто его выдал.',
	'hint.limit': {
		one: 'Слишком много запросов. Можно продолжить через {n} секунду.',
		few: 'Слишком много запросов. Можно продолжить через {n} секунды.',
		many: 'Слишком много запросов. Можно продолжить через {n} секунд.',
		other: 'Слишком много запросов. Можно продолжить через {n} секунды.',
	},
	'answer.copy': 'Копировать',
	'answer.copied': 'Скопировано',
	'answer.retry': 'Повторить',
	'answer.thinking': 'Ждём первое слово…',
	'code.copy': 'Копировать код',
	'code.label': 'Код',
	'speech.code': 'Блок кода.',
	'fault.network': 'Связь со службой потеряна.',
	'fault.upstream_error': 'сбой у поставщика модели.',
	'fault.upstream_timeout': 'поставщик модели не ответил вовремя.',
	'fault.upstream_truncated': 'поставщик модели оборвал ответ.',
	'fault.overloaded': 'служба перегружена. Попробуйте чуть позже.',
	'fault.draining': 'служба была перезапущена.',
	'fault.expired': 'его не начали вовремя.',
	'fault.stream_lost': 'служба его потеряла. Выше то, что сохранилось.',
	'fault.journal_unavailable': 'служба не может сейчас вести учёт.',
	'fault.model_not_found': 'этой модели больше нет.',
	'fault.not_found': 'его больше нет.',
	'fault.failed': 'выше то, что от него осталось.',
	'fault.other': '{message}',
	'fault.send': 'Отправить не удалось: {why}',
	'fault.load': 'Беседу не удалось загрузить: {why}',
};

const all = { en, ru };

// The first of a browser's languages that is here.
export function choose(languages) {
	for (const l of languages) {
		const short = String(l).toLowerCase().split('-')[0];
		if (Object.hasOwn(all, short))
			return short;
	}
	return 'en';
}

export const language = choose(globalThis.navigator?.languages ?? ['en']);
const plural = new Intl.PluralRules(language);
const whole = new Intl.NumberFormat(language);
const relative = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });

export function t(name, about = {}) {
	let text = all[language][name];
	if (typeof text === 'object')
		text = text[plural.select(about.count ?? 0)] ?? text.other;
	return text.replace(/\{(\w+)\}/g, (_, key) => String(about[key] ?? ''));
}

export function has(name) {
	return Object.hasOwn(all[language], name);
}

export function number(n) {
	return whole.format(n);
}

// An amount, with as many decimals as matter at its size.  Rounded down, for what can be spent: one
// would not like to read 5.00 and be refused 5.
export function amount(n, down = false) {
	const places = Math.abs(n) >= 10 ? 2 : Math.abs(n) >= 0.1 ? 4 : 6;
	const scale = 10 ** places;
	// Amounts are exact to the sixth decimal, their doubles are not: 8.2 is 8.199999….
	const micro = Math.round(n * 1e6);
	const cut = down ? Math.floor(micro / (1e6 / scale)) / scale : n;
	return new Intl.NumberFormat(language, { maximumFractionDigits: places }).format(cut);
}

export function credits(n, down = false) {
	const text = amount(n, down);
	return t('credits', { n: text, count: Math.abs(n) });
}

export function tokens(n) {
	return t('tokens', { n: number(n), count: n });
}

// How long ago, in the largest unit that fits; beyond a month the date.
export function ago(ms, now = Date.now()) {
	const s = Math.max(0, (now - ms) / 1000);
	if (s < 60)
		return relative.format(0, 'second');
	if (s < 3600)
		return relative.format(-Math.floor(s / 60), 'minute');
	if (s < 86400)
		return relative.format(-Math.floor(s / 3600), 'hour');
	if (s < 30 * 86400)
		return relative.format(-Math.floor(s / 86400), 'day');
	return new Intl.DateTimeFormat(language, { dateStyle: 'medium' }).format(ms);
}

// Why something failed, in words; the server's own where we have none.
export function why(error) {
	const code = error?.code;
	if (code && has(`fault.${code}`))
		return t(`fault.${code}`);
	return t('fault.other', { message: error?.message ?? String(error) });
}

// Fills the page's fixed words.
export function fill(root) {
	for (const e of root.querySelectorAll('[data-word]'))
		e.textContent = t(e.dataset.word);
	for (const e of root.querySelectorAll('[data-label]'))
		e.setAttribute('aria-label', t(e.dataset.label));
	for (const e of root.querySelectorAll('[data-hint]'))
		e.placeholder = t(e.dataset.hint);
}

export const dictionaries = all; // for the test that holds them against each other
