"""A year of an application's past in a database, and a few workflows under way, for questions in SQL.

Written straight into the tables, in the order of time, as years of workers would have left it: the engine's
invariants hold.
"""

from __future__ import annotations

import psycopg

_STATEMENTS = """
SELECT setseed(0.5);

INSERT INTO everstep.version (version, state, created_at, current_since, draining_since) VALUES
    ('v1', 'draining', now() - interval '1 year', now() - interval '1 year', now() - interval '1 day'),
    ('v2', 'current', now() - interval '1 day', now() - interval '1 day', NULL);
INSERT INTO everstep.queue (name, created_at)
SELECT q, now() - interval '1 year' FROM unnest(ARRAY['default', 'checkout']) AS t(q);
INSERT INTO everstep.worker (id, pod, version, state, slots, started_at, lease_until)
SELECT ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'orders-' || n, 'v' || n, 1, 200,
       now() - interval '1 hour', now() + interval '1 hour' FROM generate_series(1, 2) AS n;

-- Finished: one in 40 failed, one in 200 cancelled, one in 5,000 given up.
INSERT INTO everstep.workflow (id, name, version, queue, attributes, status, codec, input, output, error,
                               created_at, finished_at, finished_by, finished_epoch)
SELECT 'order-' || n, CASE WHEN n % 10 = 0 THEN 'refund' ELSE 'checkout' END,
       CASE WHEN n > :workflows * 0.99 THEN 'v2' ELSE 'v1' END, 'checkout',
       jsonb_build_object('country', (ARRAY['DE', 'FR', 'GB', 'SE'])[1 + n % 4]), s.status, 1,
       convert_to(json_build_object('order', json_build_object('number', n, 'customer',
                  'customer' || n % 500 || '@example.com'))::text, 'UTF8'),
       CASE WHEN s.status = 1 THEN convert_to(json_build_object('total', 5 + n % 90)::text, 'UTF8') END,
       CASE s.status WHEN 2 THEN convert_to(json_build_object('type', e.type, 'message', e.message,
                                            'traceback', repeat('line ', 60))::text, 'UTF8')
                     WHEN 3 THEN convert_to('{"type": "everstep.Cancelled", "message": "cancelled"}', 'UTF8')
                     WHEN 4 THEN convert_to('{"type": "everstep.CrashLoop", "message": "crashed"}', 'UTF8') END,
       t.at, t.at + make_interval(secs => 1 + random() * 600),
       '00000000-0000-7000-8000-000000000001', 1
  FROM generate_series(1, :workflows) AS n
 CROSS JOIN LATERAL (SELECT now() - interval '1 year' * (1 - n::float8 / (:workflows + 1)) - interval '15 minutes' AS at) AS t
 CROSS JOIN LATERAL (SELECT CASE WHEN n % 5000 = 0 THEN 4 WHEN n % 200 = 0 THEN 3 WHEN n % 40 = 0 THEN 2 ELSE 1 END AS status) AS s
 CROSS JOIN LATERAL (SELECT (ARRAY['orders.model.InvalidOrder', 'TimeoutError', 'psycopg.errors.UniqueViolation'])[1 + n / 40 % 3] AS type,
                            'order ' || n || ' cannot be taken' AS message) AS e;

-- The steps of the newest of them.
INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec,
                                 output, error, seconds, recorded_at)
SELECT w.id, '', s.seq, 1, (ARRAY['validate', 'charge', 'book'])[s.seq], w.finished_by, 1,
       CASE WHEN s.seq = 2 AND w.number % 9 = 0 THEN 3 ELSE 1 END, 1,
       CASE WHEN NOT (s.seq = 3 AND w.status = 2) THEN convert_to('"done"', 'UTF8') END,
       CASE WHEN s.seq = 3 AND w.status = 2 THEN w.error END,
       0.01 + random() * s.seq, w.created_at + make_interval(secs => s.seq / 10.0)
  FROM (SELECT *, substr(id, 7)::int AS number FROM everstep.workflow) AS w
 CROSS JOIN generate_series(1, 3) AS s(seq)
 WHERE w.number > :workflows - 5000;

-- Under way: 20 queued, 20 running, 20 asleep.
WITH o AS (
    SELECT 'order-' || (:workflows + 1 + n) AS id, 1 + n / 20 AS state, now() - make_interval(secs => n) AS at, n
      FROM generate_series(0, 59) AS n),
w AS (
    INSERT INTO everstep.workflow (id, name, queue, status, codec, input, created_at)
    SELECT id, 'checkout', 'checkout', 0, 1, convert_to('{"order": {"number": 1}}', 'UTF8'), at FROM o)
INSERT INTO everstep.run (id, name, version, queue, partition, dedup, state, ready_at, wake_at, wait_key, worker_id, epoch, crashes)
SELECT id, 'checkout', CASE state WHEN 2 THEN 'v2' WHEN 3 THEN 'v1' END, 'checkout',
       CASE WHEN n % 4 = 0 THEN 'country-' || n % 3 END, CASE WHEN n % 5 = 0 THEN 'cart-' || n END, state, at,
       CASE WHEN state = 3 THEN now() + make_interval(days => n) END, CASE WHEN state = 3 THEN 'sleep' END,
       CASE WHEN state = 2 THEN '00000000-0000-7000-8000-000000000002'::uuid END,
       CASE WHEN state = 1 THEN 0 ELSE 1 END, CASE WHEN n = 25 THEN 2 ELSE 0 END FROM o;

INSERT INTO everstep.checkpoint (workflow_id, branch, seq, kind, name, worker_id, epoch, attempts, codec,
                                 output, seconds, recorded_at)
SELECT r.id, '', 1, 2, 'sleep', '00000000-0000-7000-8000-000000000001', 1, 1, 1,
       convert_to('{"seconds": 86400.0}', 'UTF8'), 0, r.ready_at
  FROM everstep.run r WHERE r.state = 3;

SELECT brin_summarize_new_values('everstep.workflow_created'), brin_summarize_new_values('everstep.workflow_finished');
"""


def write_history(url: str, *, workflows: int) -> None:
    """So many finished workflows over a year, and sixty that are under way."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_STATEMENTS.replace(":workflows", str(workflows)).encode())
        connection.execute("ANALYZE everstep.workflow, everstep.run, everstep.checkpoint")
