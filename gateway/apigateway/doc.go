// Package apigateway is everything of an API Gateway WebSocket API that is not the socket: the routes
// and their integrations, the events that a Lambda function receives, and the management API
// (POST, GET and DELETE of /STAGE/@connections/ID) with its signatures.
//
//	config.go       Config                  what the file says, and AWS's limits
//	apigateway.go   API, Connections, Info  an endpoint, and what it needs of the gateway
//	connect.go      Connect, Disconnect     the routes $connect and $disconnect
//	message.go      Message                 the route of a message, and what goes back
//	selection.go                            route selection expressions
//	event.go                                the JSON that integrations receive
//	integration.go, lambda.go               calls of integrations, and what their answers mean
//	management.go   ServeManagement         the management API
//	sigv4.go                                verification of its signatures
//	deliver.go      Deliverer               $disconnect, until it has been answered
//
// The gateway owns the connections. It calls Connect before it upgrades a request, Message for each
// message, Disconnect (through a Deliverer) when a connection is gone, and hands every request that
// Managing finds an API for to its ServeManagement. docs/apigateway.md says how all of it differs from AWS.
package apigateway
