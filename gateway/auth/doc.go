// Package auth decides who may connect to the gateway, and says what is known of who did.
//
// A Guard is made of a Config: API keys, JSON web tokens, a callback, or several of them. It checks a
// request before the gateway takes it over as a connection:
//
//	if wantsMillraceV1(r) && guard.AwaitsMessage(r) {
//		// open the connection, read its first message, {"auth": "TOKEN"}, within a few seconds, and
//		identity, err = guard.CheckToken(ctx, token, r, remote)
//	} else {
//		identity, err = guard.Check(ctx, r, remote)
//	}
//
// The error is a *Denied, which says what to answer. The identity says when the connection has to end,
// what limits count it by, and what its token claims, so that a claim may choose the keys that it sees.
//
// What a guard cannot know is which pages may connect. Browsers send cookies whoever asks, so a token in
// a cookie needs the gateway's check of Origin against an exact list.
package auth
