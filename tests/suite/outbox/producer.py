# A producer in Python: enqueues with the SQL function and prints what became of it as JSON.
import json, sys, uuid
import psycopg

ENQUEUE = "select tidings.enqueue(%s, %s, %s, %s, %s)"
result = {"committed": [], "refused": []}

with psycopg.connect(sys.argv[1]) as connection:
    with connection.transaction():
        for count in (1, 2):
            row = connection.execute(
                ENQUEUE,
                ("count.raised", 1, "py", json.dumps({"key": "py", "count": count}), json.dumps({"tenant": "acme"})),
            ).fetchone()
            result["committed"].append(str(row[0]))

    try:
        with connection.transaction():
            connection.execute(ENQUEUE, ("count.raised", 1, "py", '{"count": 99}', "{}"))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass

    own = uuid.UUID("0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a77")
    with connection.transaction():
        row = connection.execute(
            "select tidings.enqueue('count.raised', 1, 'py', %s, event => %s)", ('{"key": "py", "count": 3}', own)
        ).fetchone()
        result["committed"].append(str(row[0]))
        row = connection.execute(
            "select tidings.enqueue('count.raised', 1, 'later', %s, due => clock_timestamp() + interval '700 ms')",
            ('{"key": "later", "count": 1}',),
        ).fetchone()
        result["due"] = str(row[0])

    for arguments in (("Count", 1, "py", "{}", "{}"), ("count.raised", 0, "py", "{}", "{}"),
                      ("count.raised", 1, "", "{}", "{}"), ("count.raised", 1, "py", None, "{}"),
                      ("count.raised", 1, "py", "{}", "[]")):
        try:
            with connection.transaction():
                connection.execute(ENQUEUE, arguments)
        except psycopg.errors.InvalidParameterValue as refusal:
            result["refused"].append({"message": refusal.diag.message_primary, "hint": refusal.diag.message_hint})

print(json.dumps(result))
