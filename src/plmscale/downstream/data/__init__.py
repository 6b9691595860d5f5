"""Reading the data of downstream tasks: any source of a task becomes the same kind of examples.

    entries     what a file resources/downstream/TASK.yaml holds
    files       where a source's files lie, fetching and verifying them
    letters     the one cleaning rule for sequences
    found       what a reader returns, its checks, and drawing a part of it
    tables      Parquet and delimited text with checked columns
    archive     members of a zip, none of which may leave its folder
    fold, fluorescence, contacts, fitness, secondary_structure     one reader a form of the source
    components  splits that keep related sequences together
    levels      which of TAPE's three test sets a domain is of
    stops       stops that a source left out, put back

Each of the task modules has READERS: name of a form -> reader. They are called by
plmscale.downstream.registry.
"""
