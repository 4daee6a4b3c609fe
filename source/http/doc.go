// Package httpsource takes events that are posted: POST /ingest/STREAM. The package is named so that it
// and net/http can be used side by side.
//
// # What is posted
//
//	application/x-ndjson, application/ndjson,    one JSON value in each line, one event each; blank lines
//	application/jsonl, application/x-jsonlines   are skipped
//	application/json, any other */*+json         an array, one event for each element, or one value
//	application/cloudevents+json                 CloudEvents 1.0, structured
//	application/cloudevents-batch+json           CloudEvents 1.0, batch
//	any, with ce-specversion                     CloudEvents 1.0, binary: attributes in headers
//	text/plain, application/octet-stream         one event with the bytes
//
// in UTF-8, with Content-Encoding gzip, zstd or none. Key and time are taken from the data as for every
// source. A CloudEvent brings time and, as its key, partitionkey or else subject; its other attributes
// become the event's, under their names.
//
// # What is answered
//
//	200  {"accepted":N,"rejected":0}: all of it is durable. With "duplicate":true it had been before.
//	400  {"accepted":N,"rejected":M,"error":...,"errors":[{"line":7,"reason":...}]}: what is wrong, up to 100
//	     of them; "line" counts lines from 1, "index" elements from 0. Nothing was taken, or with
//	     ?partial=true the rest was, and is durable.
//	401  credentials are missing or wrong; 403 the signature is wrong or too old
//	404  no such stream; 405 no POST; 415 a type, charset or encoding that is not known
//	409  another request with this Idempotency-Key has not ended yet
//	413  too many bytes, or events, or one event is too large
//	422  the Idempotency-Key was used for another body
//	429  no room: try again after Retry-After
//	503  shutting down, starting, or not durable in time: whether it was taken is not known; try again, with
//	     the same Idempotency-Key
//
// # Trying again
//
// A request with an Idempotency-Key takes effect once, however often it is sent. A webhook's own id
// (X-GitHub-Delivery, Stripe's id, webhook-id) serves as its key. Events of such a request have the ids
// KEY#0, KEY#1 and so on, and carry the attribute "idempotency-key", N/M/HASH: how many events the request
// had, how many inputs of it were rejected, and what its body was. So the events alone tell, after any
// crash, which requests were taken: the source reads its own recent blocks when it starts. A request that
// had become durable in part (blocks of some partitions) is completed by the next try, without repeating
// what is there.
//
// # Committing
//
// One goroutine commits for all requests: it emits what all of them have brought meanwhile, flushes, and
// wakes them. While it does, the next ones gather. So many clients that post single events share their
// flushes, without a timer.
package httpsource
