"""Bring a file in from an address or a path: whole and verified, or not at all.

    download    places in order, attempts, back-off, verification, the final rename
    partial     the unfinished file beside the target: its lock, and what is known of it
    sources     one request over HTTP, or one open local file, from a given byte on
    progress    what stderr shows meanwhile

`plmscale.download.download` is imported where a file is fetched: it costs the import of requests.
"""
