"""How a sweep is computed: graph, stages, prefixes and costs of a network; the executors. No files, no command line."""
