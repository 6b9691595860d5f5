/* Cleaning a block of FASTA: one pass from text to tokens.

   It does what plmscale.corpus.numpyclean does, which is its reference, for blocks in which
   nothing is at fault and every name is ASCII; any other block is declined and left to numpy, so
   that faults are found and told in one place only. Python's lock is released meanwhile. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The wrapper takes no library of another version: raise both when a signature changes. */
#define VERSION 1

/* The table `read` gives for each byte a code below 32, the token or one of these two, ... */
enum { STOP = 30, OTHER = 31 };
/* ... and what a line or record with such a byte needs. A line that needs nothing is copied. */
enum { CODE = 31, LOWER = 32, WHITE = 64, ODD = 128 };
/* The table `becomes` gives for each ODD letter the token to put in its place, or one of these. */
enum { DROP = 254, KEEP = 255 };

/* What is counted, in the order of COUNTS in fasta.py. */
enum {
    READ_SEQUENCES,
    READ_RESIDUES,
    LOWER_CASE,
    TRAILING_STOP,
    INNER_STOP,
    OTHER_LETTER,
    LETTER_RULE,
    ONLY_STOPS,
    BY_LENGTH,
    WRITTEN,
    N_COUNTS
};
typedef struct {
    const uint8_t *read, *becomes;
    int64_t min_length, max_length;
    int other_is_error;
} Rule;

/* Bytes that grow: names, and numbers of 64 bits. */
typedef struct {
    uint8_t *bytes;
    size_t used, room;
} Buffer;

typedef struct {
    uint8_t *tokens; /* as many as the block has bytes */
    size_t n_tokens;
    Buffer offsets, names, name_offsets, records;
    int64_t counts[N_COUNTS], replaced[32], newlines;
} Result;

typedef enum { DONE, DECLINED, NO_MEMORY } Outcome;

static int append(Buffer *buffer, const void *bytes, size_t size)
{
    if (buffer->room - buffer->used < size) {
        size_t room = 2 * buffer->room + size + 4096;
        uint8_t *grown = realloc(buffer->bytes, room);
        if (grown == NULL)
            return 0;
        buffer->bytes = grown;
        buffer->room = room;
    }
    memcpy(buffer->bytes + buffer->used, bytes, size);
    buffer->used += size;
    return 1;
}

static int append_number(Buffer *buffer, size_t number)
{
    int64_t wide = (int64_t)number;
    return append(buffer, &wide, sizeof wide);
}

/* What bytes.split() takes for white space, and four separators that str.split() takes, too. */
static int ends_name(uint8_t c)
{
    return c <= 32 && (c == 32 || (c >= 9 && c <= 13) || (c >= 28 && c <= 31));
}

/* Put the codes of a line at `out`; return how many, and in `needs` what they need. */
static size_t read_line(
    const uint8_t *restrict line, size_t size, const uint8_t *restrict read,
    uint8_t *restrict out, unsigned *needs)
{
    if (size && line[size - 1] == '\r')
        size--;
    unsigned seen = 0;
    for (size_t i = 0; i < size; i++) {
        uint8_t code = read[line[i]];
        out[i] = code;
        seen |= code;
    }
    if (seen & WHITE) {
        size_t kept = 0;
        for (size_t i = 0; i < size; i++) {
            out[kept] = out[i];
            kept += !(out[i] & WHITE);
        }
        size = kept;
    }
    *needs |= seen;
    return size;
}

/* Apply the rule to the codes of a record with lower case or ODD letters. Sets `length` to that of
   what stays, and returns how its end is to be counted, WRITTEN if it stays, or -1 for a fault. */
static int apply_rule(const Rule *rule, uint8_t *codes, size_t *length, unsigned needs, Result *out)
{
    size_t n = *length;
    if (needs & LOWER) {
        out->counts[LOWER_CASE]++;
        for (size_t i = 0; i < n; i++)
            codes[i] &= (uint8_t)~LOWER;
    }
    if (!(needs & ODD))
        return WRITTEN;
    if ((codes[n - 1] & CODE) == STOP) {
        out->counts[TRAILING_STOP]++;
        while (n && (codes[n - 1] & CODE) == STOP)
            n--;
    }
    int stop = 0, other = 0, drop = 0;
    for (size_t i = 0; i < n; i++) {
        if (codes[i] & ODD) {
            uint8_t code = codes[i] & CODE;
            stop |= code == STOP;
            other |= code == OTHER;
            drop |= rule->becomes[code] == DROP;
        }
    }
    if (stop)
        return INNER_STOP;
    if (other)
        return rule->other_is_error ? -1 : OTHER_LETTER;
    if (drop)
        return LETTER_RULE;
    for (size_t i = 0; i < n; i++) {
        if (codes[i] & ODD) {
            uint8_t code = codes[i] & CODE, to = rule->becomes[code];
            out->replaced[code] += to != KEEP;
            codes[i] = to == KEEP ? code : to;
        }
    }
    *length = n;
    return n ? WRITTEN : ONLY_STOPS;
}

/* Clean the records of [data, data + size). */
static Outcome clean(const Rule *rule, const uint8_t *data, size_t size, Result *out)
{
    const uint8_t *at = data, *const end = data + size;
    if (!append_number(&out->offsets, 0) || !append_number(&out->name_offsets, 0))
        return NO_MEMORY;
    while (at < end) {
        if (*at != '>')
            return DECLINED;
        const uint8_t *line_end = memchr(at, '\n', (size_t)(end - at));
        if (line_end == NULL)
            return DECLINED; /* a header without a sequence */
        const uint8_t *name = at + 1;
        while (name < line_end && ends_name(*name))
            name++;
        const uint8_t *name_end = name;
        while (name_end < line_end && !ends_name(*name_end))
            if (*name_end++ >= 128)
                return DECLINED;
        if (name == name_end)
            return DECLINED;
        out->newlines++;
        at = line_end + 1;

        uint8_t *codes = out->tokens + out->n_tokens;
        size_t length = 0;
        unsigned needs = 0;
        while (at < end && *at != '>') {
            line_end = memchr(at, '\n', (size_t)(end - at));
            if (line_end == NULL)
                line_end = end;
            length += read_line(at, (size_t)(line_end - at), rule->read, codes + length, &needs);
            out->newlines++;
            at = line_end + 1;
        }
        if (length == 0)
            return DECLINED;
        out->counts[READ_SEQUENCES]++;
        out->counts[READ_RESIDUES] += (int64_t)length;
        int fate = WRITTEN;
        if (needs & (LOWER | ODD))
            fate = apply_rule(rule, codes, &length, needs, out);
        if (fate < 0)
            return DECLINED;
        if (fate == WRITTEN
            && ((int64_t)length < rule->min_length || (int64_t)length > rule->max_length))
            fate = BY_LENGTH;
        out->counts[fate]++;
        if (fate != WRITTEN)
            continue;
        out->n_tokens += length;
        if (!append_number(&out->offsets, out->n_tokens)
            || !append(&out->names, name, (size_t)(name_end - name))
            || !append_number(&out->name_offsets, out->names.used)
            || !append_number(&out->records, (size_t)out->counts[READ_SEQUENCES]))
            return NO_MEMORY;
    }
    return out->counts[READ_SEQUENCES] ? DONE : DECLINED;
}

static PyObject *numbers(const int64_t *values, int n)
{
    PyObject *list = PyList_New(n);
    for (int i = 0; list != NULL && i < n; i++) {
        PyObject *value = PyLong_FromLongLong(values[i]);
        if (value == NULL || PyList_SetItem(list, i, value) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *py_clean(PyObject *self, PyObject *args)
{
    const char *data, *read, *becomes;
    Py_ssize_t size, n_read, n_becomes;
    long long min_length, max_length;
    Rule rule;
    (void)self;
    if (!PyArg_ParseTuple(
            args, "y#y#y#LLp", &data, &size, &read, &n_read, &becomes, &n_becomes, &min_length,
            &max_length, &rule.other_is_error))
        return NULL;
    if (n_read != 256 || n_becomes != 32) {
        PyErr_SetString(PyExc_ValueError, "tables of 256 and 32 bytes are needed");
        return NULL;
    }
    rule.read = (const uint8_t *)read;
    rule.becomes = (const uint8_t *)becomes;
    rule.min_length = min_length;
    rule.max_length = max_length;

    Result out = {0};
    PyObject *tokens = PyByteArray_FromStringAndSize(NULL, size);
    if (tokens == NULL)
        return NULL;
    out.tokens = (uint8_t *)PyByteArray_AsString(tokens);
    Outcome outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = clean(&rule, (const uint8_t *)data, (size_t)size, &out);
    Py_END_ALLOW_THREADS

    PyObject *result = NULL;
    if (outcome == NO_MEMORY)
        PyErr_NoMemory();
    else if (outcome == DECLINED)
        result = Py_NewRef(Py_None);
    else if (PyByteArray_Resize(tokens, (Py_ssize_t)out.n_tokens) == 0)
        result = Py_BuildValue(
            "Oy#y#y#y#NNL", tokens, out.offsets.bytes, (Py_ssize_t)out.offsets.used,
            out.names.used ? (char *)out.names.bytes : "", (Py_ssize_t)out.names.used,
            out.name_offsets.bytes, (Py_ssize_t)out.name_offsets.used,
            out.records.used ? (char *)out.records.bytes : "", (Py_ssize_t)out.records.used,
            numbers(out.counts, N_COUNTS), numbers(out.replaced, 32), (long long)out.newlines);
    Py_DECREF(tokens);
    free(out.offsets.bytes);
    free(out.names.bytes);
    free(out.name_offsets.bytes);
    free(out.records.bytes);
    return result;
}

static PyObject *py_pieces(PyObject *self, PyObject *args)
{
    Py_buffer data, offsets;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*", &data, &offsets))
        return NULL;
    const char *bytes = data.buf, *bound = offsets.buf;
    Py_ssize_t n = offsets.len / (Py_ssize_t)sizeof(int64_t) - 1;
    PyObject *list = PyList_New(n > 0 ? n : 0);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++, bound += sizeof(int64_t)) {
        int64_t bounds[2];
        memcpy(bounds, bound, sizeof bounds);
        if (bounds[0] < 0 || bounds[1] < bounds[0] || bounds[1] > data.len) {
            PyErr_SetString(PyExc_ValueError, "offsets must ascend within the data");
            Py_CLEAR(list);
            break;
        }
        PyObject *piece = PyBytes_FromStringAndSize(bytes + bounds[0], bounds[1] - bounds[0]);
        if (piece == NULL || PyList_SetItem(list, i, piece) < 0)
            Py_CLEAR(list);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&offsets);
    return list;
}

static PyMethodDef METHODS[] = {
    {"clean", py_clean, METH_VARARGS,
     "clean(data, read, becomes, min_length, max_length, other_is_error) -> tuple or None\n\n"
     "(tokens, offsets, names, name offsets, records, counts, replaced, line ends) of a block, or\n"
     "None where the block is declined. See plmscale.native.fasta."},
    {"pieces", py_pieces, METH_VARARGS,
     "pieces(data, offsets) -> list\n\ndata[offsets[i]:offsets[i + 1]] as bytes; offsets are\n"
     "numbers of 64 bits."},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module)
{
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_fasta", .m_doc = "The kernel of plmscale.native.fasta.",
    .m_methods = METHODS, .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__fasta(void)
{
    return PyModuleDef_Init(&MODULE);
}
