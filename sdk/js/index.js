// The client of Millrace for browsers and Node. README.md shows how to use it, docs/protocol.md what it speaks.

export { connect } from "./client.js";
export { MillraceError } from "./error.js";
