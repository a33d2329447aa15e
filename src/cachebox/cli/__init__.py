"""The command line: ``python -m cachebox``.

`main` parses the arguments and turns failures into exit statuses. Every subcommand is a module of its own, named in
`main.COMMANDS`. `terminal` knows what the other end of a stream can show. Nothing but the standard library is needed.
"""
