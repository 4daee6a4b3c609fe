"""Calls the management API as boto3 does.

Reads calls from stdin, one a line: {"endpoint", "secret", "verb": "post" | "get" | "delete", "id", "text"}.
Answers each with a line: {"status", "error", "message", "body"}. The access key's id is in AWS_ACCESS_KEY_ID.
"""
import json
import os
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

for line in sys.stdin:
    call = json.loads(line)
    client = boto3.client("apigatewaymanagementapi", endpoint_url=call["endpoint"], region_name="eu-west-1",
                          aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=call["secret"],
                          config=Config(retries={"total_max_attempts": 1}))
    try:
        if call["verb"] == "post":
            body = client.post_to_connection(ConnectionId=call["id"], Data=call["text"].encode())
        elif call["verb"] == "get":
            body = client.get_connection(ConnectionId=call["id"])
        else:
            body = client.delete_connection(ConnectionId=call["id"])
        meta = body.pop("ResponseMetadata")
        answer = {"status": meta["HTTPStatusCode"], "error": "", "body": body}
    except ClientError as e:
        # The class is what user code catches (client.exceptions.GoneException); those that the SDK does
        # not know are a plain ClientError with a code.
        name = type(e).__name__ if type(e) is not ClientError else e.response["Error"]["Code"]
        answer = {"status": e.response["ResponseMetadata"]["HTTPStatusCode"], "error": name, "message": str(e)}
    print(json.dumps(answer, default=lambda t: t.isoformat()), flush=True)
