// Types of tolld.js; docs/javascript.md is its manual.

export interface Books {
	balance: number;
	held: number;
	available: number;
	overdraft: number;
}

export interface Model {
	id: string;
	owned_by: string;
	context_length: number;
	max_completion_tokens: number;
	/** Credits for a million tokens of each kind; `request`: for a request. */
	price: Record<string, number>;
	[more: string]: unknown;
}

export interface Message {
	role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
	content: string | { type: 'text'; text: string }[];
	[more: string]: unknown;
}

/** `message` or `messages`, one of them; any other field is passed on to the model's provider. */
export interface ChatRequest {
	model?: string;
	message?: string;
	messages?: Message[];
	session_id?: string;
	max_tokens?: number;
	[more: string]: unknown;
}

export interface Preview extends Books {
	model: string;
	prompt_tokens: number;
	max_completion_tokens: number;
	estimated_cost: number;
	max_cost: number;
	allowed: boolean;
	/** Where it is not allowed: what there is too little of. */
	short_of?: ShortOf;
}

export interface Sent {
	ok: true;
	stream_id: string;
	session_id: string;
	message_id: string;
	reserved: number;
	available: number;
	/** Seconds since 1970: until then somebody has to open the stream. */
	expires_at: number;
	stream_url: string;
}

export type FinishReason = 'stop' | 'length' | 'tool_calls' | 'content_filter' | 'credit' | 'cancelled';

export type ShortOf = 'credit' | 'key_cap' | 'budget_day' | 'budget_month';

export interface Usage {
	prompt_tokens: number;
	completion_tokens: number;
	total_tokens: number;
}

export interface ErrorDetail {
	message: string;
	type?: string;
	code?: string;
	param?: string | null;
	[more: string]: unknown;
}

interface EventBase {
	/** Where in the stream it stands; good for `lastEventId`. */
	id: string;
}

export interface MetadataEvent extends EventBase {
	type: 'metadata';
	stream_id: string;
	session_id: string;
	message_id: string;
	model: string;
	prompt_tokens: number;
	reserved: number;
}

export interface TokenEvent extends EventBase {
	type: 'token';
	token: string;
}

export interface MeterEvent extends EventBase {
	type: 'meter';
	completion_tokens: number;
	cost: number;
	available: number;
}

export interface DoneEvent extends EventBase {
	type: 'done';
	finish_reason: FinishReason;
	usage: Usage;
	cost: number;
	balance: number;
	full_text: string;
	/** With `credit`. */
	short_of?: ShortOf;
	provider?: string;
}

export interface ErrorEvent extends EventBase {
	type: 'error';
	error: ErrorDetail;
	cost: number;
	balance: number;
	provider?: string;
}

export type StreamEvent = MetadataEvent | TokenEvent | MeterEvent | DoneEvent | ErrorEvent;

export type StreamState =
	| { state: 'connecting' }
	| { state: 'open' }
	| { state: 'waiting'; ms: number; failures: number; error: TolldError };

export interface CallOptions {
	signal?: AbortSignal;
	/** How often it is asked again after a failure that may pass; 4. */
	retries?: number;
	/** For each try; 60000. */
	timeoutMs?: number;
}

export interface SendOptions extends CallOptions {
	/** Made, where it is left out. */
	idempotencyKey?: string;
}

export interface StreamOptions {
	/** Cancels the stream, or with `cancelOnAbort: false` only stops reading it. */
	signal?: AbortSignal;
	cancelOnAbort?: boolean;
	/** The id of the last event that was seen: it goes on behind that. */
	lastEventId?: string;
	onState?: (state: StreamState) => void;
	/** How long to go on trying without any news; 300000. */
	giveUpMs?: number;
}

export interface PageOptions extends CallOptions {
	/** `next` of the page before. */
	before?: string | number | null;
	limit?: number;
}

export interface Session {
	id: string;
	/** The first line of the first message. */
	title: string;
	/** Seconds since 1970. */
	created_at: number;
	updated_at: number;
	/** How many. */
	messages: number;
}

export interface HistoryMessage {
	id: string;
	role: 'user' | 'assistant' | 'system';
	content: string;
	status: 'complete' | 'cut' | 'cancelled' | 'failed' | 'streaming';
	/** While it is `streaming`: good for stream(). */
	stream_id?: string;
	finish_reason?: FinishReason | 'error';
	/** With `cut`: for want of what, where that is known. */
	short_of?: ShortOf;
	model?: string;
	prompt_tokens?: number;
	tokens?: number;
	cost?: number;
	created_at: number;
	ended_at?: number;
}

/** The newest first. */
export interface Sessions {
	sessions: Session[];
	/** For `before`; null: there are no more. */
	next: string | number | null;
}

/** The oldest first; a page further back is what was said before. */
export interface History {
	session_id: string;
	title: string;
	messages: HistoryMessage[];
	next: string | number | null;
}

export interface ChatAnswer {
	message: string;
	finish_reason: FinishReason;
	usage: Usage;
	cost: number;
	balance: number;
	model: string;
	stream_id: string;
	session_id: string;
	message_id: string;
}

export interface TolldOptions {
	/** Where tolld is; '': where the page came from. */
	baseUrl?: string;
	key?: string;
	fetch?: typeof globalThis.fetch;
	/** The first pause before something is tried again; doubled with each failure; 250. */
	backoffMs?: number;
	/** A stream that says nothing for so long is taken up anew; 40000. */
	silenceMs?: number;
}

export class Tolld {
	constructor(options?: TolldOptions);
	/** Can this browser read an answer while it comes? */
	static readonly streams: boolean;
	balance(options?: CallOptions): Promise<Books>;
	models(options?: CallOptions): Promise<Model[]>;
	preview(request: ChatRequest, options?: CallOptions): Promise<Preview>;
	send(request: ChatRequest, options?: SendOptions): Promise<Sent>;
	stream(stream: string | Sent, options?: StreamOptions): AsyncGenerator<StreamEvent, void, void>;
	cancel(stream: string | Sent, options?: CallOptions): Promise<{ ok: true; finish_reason: FinishReason; cost: number; balance: number }>;
	chat(request: ChatRequest, options?: CallOptions): Promise<ChatAnswer>;
	sessions(options?: PageOptions): Promise<Sessions>;
	history(sessionId: string, options?: PageOptions): Promise<History>;
	forget(sessionId: string, options?: CallOptions): Promise<object>;
}

export class TolldError extends Error {
	/** Of HTTP; 0: there was no answer. */
	readonly status: number;
	readonly code: string;
	/** Seconds. */
	readonly retryAfter?: number;
	readonly requestId?: string;
	/** The field that is wrong. */
	readonly param?: string;
	readonly type?: string;
	readonly detail: Partial<ErrorDetail>;
}

/** 401 */
export class KeyError extends TolldError {}
/** 402 */
export class CreditError extends TolldError {
	readonly required?: number;
	readonly available?: number;
}
/** 403 */
export class ScopeError extends TolldError {}
/** 404, 410 */
export class NotFoundError extends TolldError {}
/** 429 */
export class LimitError extends TolldError {}
/** Other 4xx */
export class RequestError extends TolldError {}
/** 5xx */
export class ServerError extends TolldError {}
/** No answer, half of one, or somebody else's. */
export class NetworkError extends TolldError {}

export interface SseEvent {
	id: string;
	event: string;
	data: string;
}

export class SseParser {
	feed(text: string): SseEvent[];
}
