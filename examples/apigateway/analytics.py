"""The function at the end of the analytics: it pushes each result to whoever asked for the vehicle.

The event is what Kinesis Data Analytics hands to a function: {"records": [{"recordId", "data": base64}]}.
ENDPOINT_URL is the management API's, such as http://127.0.0.1:8080/prod; the access key comes from the
environment, as everywhere with boto3. Nothing in here knows that it is not talking to AWS.
"""
import base64
import json
import os

import boto3

from connections import table


def lambda_handler(event, context):
    client = boto3.client("apigatewaymanagementapi", endpoint_url=os.environ["ENDPOINT_URL"])
    results = []
    db = table()
    try:
        for record in event["records"]:
            data = base64.b64decode(record["data"])
            vehicle = str(json.loads(data)["VehicleID"])
            rows = db.execute("SELECT ConnectionID FROM connections WHERE VehicleID = ?", (vehicle,)).fetchall()
            for (connection,) in rows:
                try:
                    client.post_to_connection(ConnectionId=connection, Data=data)
                except client.exceptions.GoneException:
                    db.execute("DELETE FROM connections WHERE ConnectionID = ?", (connection,))
            results.append({"recordId": record["recordId"], "result": "Ok"})
    finally:
        db.close()
    return {"records": results}
