"""One list of scenarios for every door: the same verdict, the same claims, the same record, whatever adapter serves.

    cd tests && python -m scenarios        prints the table of docs/guides/doors.md

`cases` says what happens and what must come of it; `world` is the provider; `doors` serve it, each over a real connection.
"""
