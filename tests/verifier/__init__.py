"""The proof that no viewer loses, repeats or reorders anything; it trusts no code of the edge.

It reads the topic with a plain consumer, computes from docs/protocol.md what each viewer must have
seen, and compares that with what real clients recorded. Its judgement imports nothing of Tailrace
but the Avro schema.

===============  =================================================================
``record``       a Kafka record -> what a viewer may see of it                 pure
``expectation``  the log of one channel: what is required, what may be left out  pure
``recording``    what one viewer recorded in its life, as lines of a file      pure
``dialects``     the messages of each dialect -> frames                        pure
``judge``        expectation and recording -> violations                       pure
``load``         seeded records of every sort                                  pure
``plan``         who watches what, and how badly behaved
``simulator``    an honest edge, slow and obvious: it must be found clean      pure
``honest_edge``  the same on a real port                                       shell
``topic``        reads and writes the topic                                    shell
``recorder``     many viewers of unruly behaviour, a process of its own        shell
``faults``       what goes wrong meanwhile                                     shell
``soak``         all of it for some minutes: ``make soak``                     shell
===============  =================================================================
"""
