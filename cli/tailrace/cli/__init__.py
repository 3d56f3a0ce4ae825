"""The ``tailrace`` command, the local Kafka and the demo. Imports everything, imported by none."""
