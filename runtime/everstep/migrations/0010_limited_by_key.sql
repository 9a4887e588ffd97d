-- As in 0004, except that rows are found by their keys also where the planner takes the tables for empty: it would walk
-- an index in its order to join by it, or to lock in that order (docs/decisions/plans-by-index.md).
-- everstep: oldest-code 6

CREATE OR REPLACE FUNCTION everstep.claim_limited(
    of_queue text, of_names text[], of_version text, to_worker uuid, at_most integer, suspect boolean,
    cursors timestamptz[])
RETURNS SETOF everstep.claimed LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM everstep.queue q WHERE q.name = of_queue AND NOT q.paused FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE t AS MATERIALIZED (SELECT current, ramping, percent FROM everstep.routing),
    q AS MATERIALIZED (
        SELECT q.*, everstep.clock() AS now, num_nonnulls(q.max_running, q.partition_max_running) > 0 AS slots,
               extract(epoch FROM q.rate_per) / q.rate AS spacing,
               extract(epoch FROM q.partition_rate_per) / q.partition_rate AS partition_spacing
          FROM everstep.queue q WHERE q.name = of_queue),
    -- What runs. Until all of it is known to hold slots (a limit was set a moment ago, and claims that had not
    -- seen it may be under way) what runs without one counts too.
    used AS MATERIALIZED (
        SELECT r.slot, coalesce(r.partition, '') AS partition FROM everstep.run r
         WHERE r.queue = of_queue AND r.slot IS NOT NULL
        UNION ALL
        SELECT NULL, coalesce(r.partition, '') FROM q CROSS JOIN LATERAL (
            SELECT r.partition FROM everstep.run r
             WHERE r.state = 2 AND r.queue = q.name AND r.slot IS NULL) r
         WHERE q.slots AND NOT q.slotted),
    held AS MATERIALIZED (
        SELECT count(*) AS n, count(*) FILTER (WHERE slot IS NULL) AS bare, max(slot) AS top,
               (SELECT max(p.n) FROM (SELECT count(*) AS n FROM used GROUP BY partition) p) AS top_partition
          FROM used),
    -- How many may be claimed: room here, slots, and what the rate's bucket holds.
    a AS MATERIALIZED (
        SELECT q.*, h.n AS running, h.bare, h.top, h.top_partition,
               greatest(0, least(at_most, q.max_running - h.n,
                   q.burst - ceil(extract(epoch FROM greatest(q.tat, q.now) - q.now) / q.spacing)))::integer AS n
          FROM q CROSS JOIN held h),
    -- Around the ring of partitions, from the one after the last that was served: those behind it, the runs
    -- without a partition (''), those before it and itself. Bounded; the next claim goes on from there.
    ring AS (
        SELECT 0 AS lap, 0 AS place, a.rotor AS partition, a.rotor AS last, 20 + 2 * a.n AS places
          FROM a WHERE a.n > 0 AND NOT suspect
        UNION ALL
        SELECT CASE WHEN x.next IS NULL THEN 1 ELSE w.lap END, w.place + 1, coalesce(x.next, ''), w.last, w.places
          FROM ring w CROSS JOIN LATERAL (
            SELECT (SELECT r.partition FROM everstep.run r
                     WHERE r.queue = of_queue AND r.state = 1 AND r.partition > w.partition
                     ORDER BY r.partition LIMIT 1) AS next) x
         WHERE w.place < w.places AND (w.lap = 0 OR x.next <= w.last)),
    -- The partitions met that may run something, and how many each.
    met AS MATERIALIZED (
        SELECT w.place, w.partition, extract(epoch FROM greatest(k.tat, a.now) - a.now) AS full_in,
               least(a.n, a.partition_max_running - coalesce(u.n, 0),
                   a.partition_burst - ceil(extract(epoch FROM greatest(k.tat, a.now) - a.now) / a.partition_spacing)
               )::integer AS n
          FROM ring w CROSS JOIN a
          LEFT JOIN (SELECT partition, count(*) AS n FROM used GROUP BY partition) u ON u.partition = w.partition
          LEFT JOIN everstep.queue_partition k
            ON k.queue = of_queue AND k.partition = w.partition AND a.partition_rate IS NOT NULL
         WHERE w.place > 0),
    open AS MATERIALIZED (
        SELECT m.place, m.partition,
               least(m.n, ceil(a.n / (count(*) OVER ())::numeric))::integer AS n
          FROM met m CROSS JOIN a WHERE m.n > 0),
    -- Of each its oldest, a run of priority p counting as p minutes younger than it is.
    c AS MATERIALIZED (
        SELECT o.place, o.partition, h.id,
               row_number() OVER (PARTITION BY o.place ORDER BY h.due, h.id) AS turn, o.n
          FROM open o CROSS JOIN generate_series(0, 3) AS p(priority) CROSS JOIN LATERAL (
            SELECT r.id, r.ready_at + p.priority * interval '1 minute' AS due FROM everstep.run r CROSS JOIN t
             WHERE r.queue = of_queue AND r.partition = o.partition AND r.priority = p.priority AND r.state = 1
               AND r.ready_at <= everstep.clock() AND r.name = ANY (of_names) AND r.crashes < 3
               AND (r.version = of_version OR r.version IS NULL AND of_version =
                    CASE WHEN (hashtext(r.id) & 2147483647) % 100 < t.percent THEN t.ramping ELSE t.current END)
             ORDER BY r.ready_at LIMIT o.n) h
         WHERE o.partition <> ''
        UNION ALL
        SELECT o.place, o.partition, h.id,
               row_number() OVER (ORDER BY h.due, h.id) AS turn, o.n
          FROM open o CROSS JOIN generate_series(0, 3) AS p(priority) CROSS JOIN LATERAL (
            SELECT r.id, r.ready_at + p.priority * interval '1 minute' AS due FROM everstep.run r CROSS JOIN t
             WHERE r.queue = of_queue AND r.partition IS NULL AND r.priority = p.priority AND r.state = 1
               AND r.ready_at >= coalesce(cursors[p.priority + 1], '-infinity')
               AND r.ready_at <= everstep.clock() AND r.name = ANY (of_names) AND r.crashes < 3
               AND (r.version = of_version OR r.version IS NULL AND of_version =
                    CASE WHEN (hashtext(r.id) & 2147483647) % 100 < t.percent THEN t.ramping ELSE t.current END)
             ORDER BY r.ready_at LIMIT o.n) h
         WHERE o.partition = ''
        UNION ALL
        SELECT 1, coalesce(r.partition, ''), r.id, 1, 1
          FROM a CROSS JOIN t CROSS JOIN everstep.run r
         WHERE suspect AND a.n > 0 AND r.crashes >= 3 AND r.queue = of_queue AND r.state = 1
           AND r.name = ANY (of_names)
           AND (r.version = of_version OR r.version IS NULL AND of_version =
                CASE WHEN (hashtext(r.id) & 2147483647) % 100 < t.percent THEN t.ramping ELSE t.current END)
           AND (a.partition_max_running IS NULL OR a.partition_max_running >
                (SELECT count(*) FROM used u WHERE u.partition = coalesce(r.partition, '')))),
    -- First everybody's first, then everybody's second, in the order of the ring.
    chosen AS MATERIALIZED (
        SELECT c.id, c.partition, c.place, c.turn, row_number() OVER (ORDER BY c.turn, c.place, c.id) AS rank
          FROM c WHERE c.turn <= c.n ORDER BY c.turn, c.place, c.id LIMIT (SELECT a.n FROM a)),
    l AS MATERIALIZED (
        SELECT r.id FROM everstep.run r
         WHERE r.id = ANY (ARRAY(SELECT chosen.id FROM chosen)) AND r.state = 1
         ORDER BY r.id COLLATE "POSIX" FOR UPDATE SKIP LOCKED),
    free AS MATERIALIZED (
        SELECT s.slot, row_number() OVER (ORDER BY s.slot) AS rank
          FROM a CROSS JOIN LATERAL generate_series(1, least(a.max_running, a.running + a.n)) AS s(slot)
         WHERE a.slots AND NOT EXISTS (SELECT FROM used WHERE used.slot = s.slot)),
    s AS MATERIALIZED (
        SELECT chosen.id, chosen.partition, free.slot
          FROM a CROSS JOIN chosen JOIN l ON l.id = chosen.id LEFT JOIN free ON free.rank = chosen.rank
         WHERE NOT a.slots OR free.slot IS NOT NULL),
    u AS (
        UPDATE everstep.run r SET state = 2, worker_id = k.id, version = of_version, epoch = r.epoch + 1, slot = s.slot
          FROM s CROSS JOIN everstep.worker k
         WHERE r.id = ANY (ARRAY[s.id]) AND k.id = to_worker AND k.state = 1
        RETURNING r.id, r.name, r.epoch, r.ready_at, r.crashes, r.cancel, r.deadline, s.partition,
                  CASE WHEN r.partition IS NULL THEN r.priority END AS priority,
                  greatest(extract(epoch FROM everstep.clock() - r.ready_at)::float8, 0) AS waited),
    m AS (
        INSERT INTO everstep.metric_delta (kind, queue, name, outcome, bucket, n, seconds)
        SELECT 2, of_queue, '', 0, everstep.bucket(waited), count(*), sum(waited) FROM u
         GROUP BY everstep.bucket(waited)),
    -- What the next claim has to know. Fractions of a microsecond are rounded up: never faster than the rate.
    n AS MATERIALIZED (
        SELECT a.name,
               CASE WHEN a.rate IS NOT NULL THEN greatest(a.tat, a.now)
                    + make_interval(secs => (ceil((SELECT count(*) FROM u) * a.spacing * 1000000) / 1000000)::float8)
               END AS tat,
               coalesce((SELECT chosen.partition FROM chosen WHERE NOT suspect AND chosen.rank = a.n),
                        (SELECT w.partition FROM ring w ORDER BY w.place DESC LIMIT 1), a.rotor) AS rotor,
               a.slots AND (a.slotted OR a.bare = 0 AND a.limited_since < a.now - interval '30 seconds') AS slotted,
               CASE WHEN a.top > a.max_running THEN a.lowered_from END AS lowered_from,
               CASE WHEN a.top_partition > a.partition_max_running THEN a.partition_lowered_from END AS partition_lowered_from,
               EXISTS (SELECT FROM u) AS any
          FROM a),
    b AS (
        UPDATE everstep.queue q SET tat = CASE WHEN n.any THEN n.tat ELSE q.tat END, rotor = n.rotor, slotted = n.slotted,
               lowered_from = n.lowered_from, partition_lowered_from = n.partition_lowered_from
          FROM n WHERE q.name = n.name
           AND (n.any AND n.tat IS NOT NULL OR
                (q.rotor, q.slotted, q.lowered_from, q.partition_lowered_from) IS DISTINCT FROM
                (n.rotor, n.slotted, n.lowered_from, n.partition_lowered_from))),
    d AS (
        INSERT INTO everstep.queue_partition AS k (queue, partition, tat)
        SELECT a.name, u.partition,
               a.now + make_interval(secs => (ceil(count(*) * a.partition_spacing * 1000000) / 1000000)::float8)
          FROM a CROSS JOIN u WHERE a.partition_rate IS NOT NULL GROUP BY a.name, a.now, a.partition_spacing, u.partition
            ON CONFLICT (queue, partition) DO UPDATE
           SET tat = excluded.tat + (greatest(k.tat, everstep.clock()) - everstep.clock()))
    SELECT u.id, u.name, u.epoch, u.ready_at, u.crashes, w.codec, w.input, u.cancel, u.deadline,
           u.priority,
           -- Tokens come one by one; a claim for each would be many claims, so it waits for some where they are quick.
           coalesce(
               (SELECT greatest(x.full_in - (a.burst - 1) * a.spacing, least(a.burst * a.spacing / 2, 0.25))
                  FROM (SELECT extract(epoch FROM greatest(n.tat, a.now) - a.now) AS full_in FROM n) x
                 WHERE x.full_in > (a.burst - 1) * a.spacing),
               (SELECT greatest(min(m.full_in) - (a.partition_burst - 1) * a.partition_spacing,
                                least(a.partition_burst * a.partition_spacing / 2, 0.25))
                  FROM met m WHERE m.full_in > (a.partition_burst - 1) * a.partition_spacing
                HAVING count(*) > 0))::float8,
           EXISTS (SELECT FROM ring w WHERE w.place = w.places)
      FROM a LEFT JOIN (u JOIN everstep.workflow w ON w.id = ANY (ARRAY[u.id])) ON true;
END $$;
