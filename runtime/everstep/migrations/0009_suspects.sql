-- Suspects are found by queue, priority and age, also while the table has never been analyzed: the planner then takes any
-- index for as good as another of its size, and read all that is ready to learn that none of it is suspect. With the age,
-- it has nothing that the index of all that is ready could do better.
-- everstep: oldest-code 6

DROP INDEX everstep.run_crashed;
CREATE INDEX run_crashed ON everstep.run (queue, priority, ready_at) WHERE crashes >= 3 AND state = 1;
