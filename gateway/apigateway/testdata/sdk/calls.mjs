// Calls the management API as the unmodified AWS SDK for JavaScript does.
//
// Reads calls from stdin, one a line: {"endpoint", "secret", "verb": "post" | "get" | "delete", "id", "text"}.
// Answers each with a line: {"status", "error", "message", "body"}. The access key's id is in AWS_ACCESS_KEY_ID.
import { createInterface } from "node:readline";
import {
  ApiGatewayManagementApiClient,
  DeleteConnectionCommand,
  GetConnectionCommand,
  PostToConnectionCommand,
} from "@aws-sdk/client-apigatewaymanagementapi";

for await (const line of createInterface({ input: process.stdin })) {
  const { endpoint, secret, verb, id: ConnectionId, text: Data } = JSON.parse(line);
  const client = new ApiGatewayManagementApiClient({
    endpoint,
    region: "eu-west-1",
    maxAttempts: 1,
    credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: secret },
  });
  const command = {
    post: () => new PostToConnectionCommand({ ConnectionId, Data }),
    get: () => new GetConnectionCommand({ ConnectionId }),
    delete: () => new DeleteConnectionCommand({ ConnectionId }),
  }[verb]();
  try {
    const { $metadata, ...body } = await client.send(command);
    console.log(JSON.stringify({ status: $metadata.httpStatusCode, error: "", body }));
  } catch (e) {
    console.log(JSON.stringify({ status: e.$metadata?.httpStatusCode, error: e.name, message: e.message }));
  }
}
