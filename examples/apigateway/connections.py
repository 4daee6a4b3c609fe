"""The function behind $connect and $disconnect: it keeps who is connected, and for which vehicle.

On AWS the table is in DynamoDB; here it is a file. CONNECTIONS_DB names it (default connections.db).
"""
import os
import sqlite3


def table():
    """Opens the table; several processes and threads may."""
    db = sqlite3.connect(os.environ.get("CONNECTIONS_DB", "connections.db"), timeout=10, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS connections (ConnectionID TEXT PRIMARY KEY, VehicleID TEXT NOT NULL)")
    return db


def lambda_handler(event, context):
    request = event["requestContext"]
    connection = request["connectionId"]
    db = table()
    try:
        if request["routeKey"] == "$connect":
            vehicle = event.get("queryStringParameters", {}).get("VehicleID")
            if not vehicle:
                return {"statusCode": 400, "body": "VehicleID is missing"}
            db.execute("INSERT OR REPLACE INTO connections VALUES (?, ?)", (connection, vehicle))
        elif request["routeKey"] == "$disconnect":
            # It may be called twice for one connection; deleting what is gone changes nothing.
            db.execute("DELETE FROM connections WHERE ConnectionID = ?", (connection,))
        return {"statusCode": 200}
    finally:
        db.close()
