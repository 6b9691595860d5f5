/* Token streams of the training loader, made without Python's lock (see rows.py).
 *
 *   gather   ranges of memory-mapped files, copied one after another into one buffer
 *   pack     sequences of one buffer written as BOS residues EOS in a given order
 *   cut      rows of a stream, or as much of them as lies within this part of it
 *   locate   which source a sample comes from, and its number there
 *   mask     inputs and targets of masked language modelling
 *
 * All check every range against its buffer before they touch anything, so a wrong index is a
 * ValueError and never a crash.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

/* The wrapper takes no library of another version: raise both when a signature changes. */
#define VERSION 2

/* Tell the kernel about a range of a mapping; advice that is refused changes nothing. */
static void advise(const char *start, Py_ssize_t size, int advice)
{
#if defined(__unix__) || defined(__APPLE__)
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = (uintptr_t)start / page * page;
    if (size > 0)
        (void)madvise((void *)from, (uintptr_t)start + (uintptr_t)size - from, advice);
#else
    (void)start, (void)size, (void)advice;
#endif
}

#if defined(__unix__) || defined(__APPLE__)
#define WILL_NEED MADV_WILLNEED
#define DONE_WITH MADV_DONTNEED
#else
#define WILL_NEED 0
#define DONE_WITH 0
#endif

static PyObject *py_gather(PyObject *self, PyObject *args)
{
    PyObject *sources, *result = NULL;
    Py_buffer which, offsets, sizes, out;
    int mapped;
    if (!PyArg_ParseTuple(args, "Oy*y*y*pw*", &sources, &which, &offsets, &sizes, &mapped, &out))
        return NULL;
    const int64_t *file = which.buf, *from = offsets.buf, *size = sizes.buf;
    Py_ssize_t n = which.len / 8, files = 0, total = 0, opened = 0;
    Py_buffer *maps = NULL;

    files = PySequence_Size(sources);
    if (files < 0)
        goto done;
    maps = PyMem_Calloc((size_t)files + 1, sizeof(Py_buffer));
    if (!maps) {
        PyErr_NoMemory();
        goto done;
    }
    for (; opened < files; opened++) {
        /* The buffer itself holds its source. */
        PyObject *source = PySequence_GetItem(sources, opened);
        int failed = !source || PyObject_GetBuffer(source, &maps[opened], PyBUF_SIMPLE);
        Py_XDECREF(source);
        if (failed)
            goto done;
    }
    if (offsets.len != which.len || sizes.len != which.len) {
        PyErr_SetString(PyExc_ValueError, "which, offsets and sizes differ in length");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (file[i] < 0 || file[i] >= files || from[i] < 0 || size[i] < 0 ||
            from[i] > maps[file[i]].len || size[i] > maps[file[i]].len - from[i]) {
            PyErr_Format(PyExc_ValueError, "range %zd lies outside its buffer", i);
            goto done;
        }
        total += size[i];
    }
    if (total != out.len) {
        PyErr_SetString(PyExc_ValueError, "the ranges do not fill the output");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    char *to = out.buf;
    /* All ranges are asked for first: a disk then reads many at a time. */
    for (Py_ssize_t i = 0; mapped && i < n; i++)
        advise((const char *)maps[file[i]].buf + from[i], size[i], WILL_NEED);
    for (Py_ssize_t i = 0; i < n; i++) {
        const char *start = (const char *)maps[file[i]].buf + from[i];
        memcpy(to, start, (size_t)size[i]);
        to += size[i];
        /* The pages stay in the file cache, but no longer count as this process's memory: all of
         * the file's, for the kernel maps neighbours too. Never for other memory: its content
         * would be lost. */
        if (mapped && (i == n - 1 || file[i + 1] != file[i]))
            advise(maps[file[i]].buf, maps[file[i]].len, DONE_WITH);
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    for (Py_ssize_t i = 0; i < opened; i++)
        PyBuffer_Release(&maps[i]);
    PyMem_Free(maps);
    PyBuffer_Release(&which);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_pack(PyObject *self, PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer residues, starts, lengths, out;
    unsigned char begin, end;
    if (!PyArg_ParseTuple(args, "y*y*y*bbw*", &residues, &starts, &lengths, &begin, &end, &out))
        return NULL;
    const int64_t *from = starts.buf, *size = lengths.buf;
    Py_ssize_t n = starts.len / 8, total = 0;

    if (lengths.len != starts.len) {
        PyErr_SetString(PyExc_ValueError, "starts and lengths differ in length");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (from[i] < 0 || size[i] < 0 || from[i] > residues.len ||
            size[i] > residues.len - from[i]) {
            PyErr_Format(PyExc_ValueError, "sequence %zd lies outside the residues", i);
            goto done;
        }
        total += size[i] + 2;
    }
    if (total != out.len) {
        PyErr_SetString(PyExc_ValueError, "the sequences do not fill the output");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    unsigned char *to = out.buf;
    for (Py_ssize_t i = 0; i < n; i++) {
        *to++ = begin;
        memcpy(to, (const char *)residues.buf + from[i], (size_t)size[i]);
        to += size[i];
        *to++ = end;
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&residues);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_cut(PyObject *self, PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer stream, begins, places, out;
    long long base, context;
    if (!PyArg_ParseTuple(args, "y*Ly*y*Lw*", &stream, &base, &begins, &places, &context, &out))
        return NULL;
    const int64_t *begin = begins.buf, *place = places.buf;
    Py_ssize_t n = begins.len / 8;

    if (places.len != begins.len || context < 1) {
        PyErr_SetString(PyExc_ValueError, "begins and places differ in length");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (place[i] < 0 || place[i] >= out.len / context) {
            PyErr_Format(PyExc_ValueError, "row %zd lies outside the output", i);
            goto done;
        }
    Py_BEGIN_ALLOW_THREADS
    int64_t last = base + stream.len;
    for (Py_ssize_t i = 0; i < n; i++) {
        int64_t from = begin[i] < base ? base : begin[i];
        int64_t to = begin[i] + context < last ? begin[i] + context : last;
        if (from < to)
            memcpy((char *)out.buf + place[i] * context + (from - begin[i]),
                   (const char *)stream.buf + (from - base), (size_t)(to - from));
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&stream);
    PyBuffer_Release(&begins);
    PyBuffer_Release(&places);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_locate(PyObject *self, PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer samples, weights, rests, sources, indices;
    if (!PyArg_ParseTuple(args, "y*y*y*w*w*", &samples, &weights, &rests, &sources, &indices))
        return NULL;
    const uint64_t *sample = samples.buf, *weight = weights.buf, *rest = rests.buf;
    uint64_t *source = sources.buf, *index = indices.buf;
    Py_ssize_t n = samples.len / 8, k = weights.len / 8;

    int bad = k < 1 || rests.len != weights.len || sources.len != samples.len ||
              indices.len != samples.len || weight[k - 1] != rest[k - 1];
    for (Py_ssize_t i = 0; !bad && i < k; i++)
        bad = weight[i] < 1 || weight[i] > rest[i];
    if (bad) {
        PyErr_SetString(PyExc_ValueError, "weights, rests and outputs do not belong together");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        uint64_t s = sample[i];
        Py_ssize_t at = 0;
        /* The last source takes every sample that is left. See rows.py for the arithmetic. */
        for (; at < k - 1; at++) {
            uint64_t w = weight[at], r = rest[at], few = w <= r - w ? w : r - w;
            uint64_t product = s % r * few, left = product % r;
            uint64_t before = s / r * few + product / r;
            int mine = left >= r - w;
            if (few != w) {
                before = s - before - (left > 0);
                mine = left > 0 && left <= w;
            }
            if (mine) {
                s = before;
                break;
            }
            s -= before;
        }
        source[i] = (uint64_t)at;
        index[i] = s;
    }
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&samples);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&rests);
    PyBuffer_Release(&sources);
    PyBuffer_Release(&indices);
    return result;
}

/* The high half of a product of 64 bits; the low half is what C gives. */
static inline uint64_t high_product(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
    return (uint64_t)((unsigned __int128)a * b >> 64);
#else
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t low = a0 * b0, one = a1 * b0 + (low >> 32), two = a0 * b1 + (uint32_t)one;
    return a1 * b1 + (one >> 32) + (two >> 32);
#endif
}

/* Philox4x64-10 (Salmon et al. 2011, section 3.3 and table 2) of the counter (block, 0, number, 0):
 * eight words of 32 bits, of each 64 the low ones first. */
static inline void philox(uint64_t key0, uint64_t key1, uint64_t block, uint64_t number,
                          uint32_t *out)
{
    uint64_t c0 = block, c1 = 0, c2 = number, c3 = 0;
    for (int i = 0; i < 10; i++) {
        uint64_t high0 = high_product(0xD2E7470EE14C6C93u, c0), low0 = 0xD2E7470EE14C6C93u * c0;
        uint64_t high2 = high_product(0xCA5A826395121157u, c2), low2 = 0xCA5A826395121157u * c2;
        c0 = high2 ^ c1 ^ key0;
        c1 = low2;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
    uint64_t words[4] = {c0, c1, c2, c3};
    for (int i = 0; i < 4; i++) {
        out[2 * i] = (uint32_t)words[i];
        out[2 * i + 1] = (uint32_t)(words[i] >> 32);
    }
}

static PyObject *py_mask(PyObject *self, PyObject *args)
{
    PyObject *result = NULL;
    Py_buffer rows, samples, inputs, targets;
    unsigned long long seed, stream, hidden, random, chosen;
    unsigned char mask, first, letters;
    long long ignored;
    uint32_t *draws = NULL;
    if (!PyArg_ParseTuple(args, "y*y*KK(KKK)bbbLw*w*", &rows, &samples, &seed, &stream, &hidden,
                          &random, &chosen, &mask, &first, &letters, &ignored, &inputs, &targets))
        return NULL;
    const uint64_t *sample = samples.buf;
    Py_ssize_t n = samples.len / 8, length = n ? rows.len / n : 0;

    if (n * length != rows.len || inputs.len != rows.len || targets.len != 8 * rows.len ||
        !(hidden <= random && random <= chosen && chosen < (uint64_t)1 << 32) ||
        length >= (Py_ssize_t)1 << 31) {
        PyErr_SetString(PyExc_ValueError, "rows, samples, limits and outputs do not fit together");
        goto done;
    }
    /* Philox gives eight at a time; the second half is the places of the chosen. */
    draws = PyMem_Malloc(2 * ((size_t)length + 8) * sizeof *draws);
    if (!draws) {
        PyErr_NoMemory();
        goto done;
    }
    uint32_t *places = draws + length + 8, limit = (uint32_t)chosen;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < n; i++) {
        const unsigned char *from = (const unsigned char *)rows.buf + i * length;
        unsigned char *to = (unsigned char *)inputs.buf + i * length;
        int64_t *target = (int64_t *)targets.buf + i * length;
        Py_ssize_t count = 0;
        for (Py_ssize_t k = 0; k < length; k += 8)
            philox(seed, stream, (uint64_t)(k / 8 + 1), sample[i], draws + k);
        /* Without a branch: no processor can guess whether a token is chosen. */
        for (Py_ssize_t k = 0; k < length; k++) {
            places[count] = (uint32_t)k;
            count += (draws[k] < limit) & (from[k] >= first);
        }
        memcpy(to, from, (size_t)length);
        for (Py_ssize_t k = 0; k < length; k++)
            target[k] = ignored;
        for (Py_ssize_t j = 0; j < count; j++) {
            uint32_t k = places[j], draw = draws[k];
            target[k] = from[k];
            if (draw < hidden)
                to[k] = mask;
            else if (draw < random)
                to[k] = (unsigned char)(first + (draw - hidden) * letters / (random - hidden));
        }
    }
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
done:
    PyMem_Free(draws);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&samples);
    PyBuffer_Release(&inputs);
    PyBuffer_Release(&targets);
    return result;
}

static PyMethodDef METHODS[] = {
    {"gather", py_gather, METH_VARARGS,
     "gather(sources, which, offsets, sizes, mapped, out)\n\nCopy byte ranges, given as numbers of\n"
     "64 bits, into out. mapped says that all sources are read-only shared maps of files."},
    {"pack", py_pack, METH_VARARGS,
     "pack(residues, starts, lengths, begin, end, out)\n\nWrite begin, residues, end of each."},
    {"cut", py_cut, METH_VARARGS,
     "cut(stream, base, begins, places, context, out)\n\nCopy what the stream, which begins at base,\n"
     "holds of the rows at begins, numbers of 64 bits, to their places in out."},
    {"locate", py_locate, METH_VARARGS,
     "locate(samples, weights, rests, sources, indices)\n\nFind the source of each sample, all\n"
     "numbers of 64 bits; rests[i] is the sum of the weights from i on."},
    {"mask", py_mask, METH_VARARGS,
     "mask(rows, samples, seed, stream, (hidden, random, chosen), mask, first, letters, ignored,\n"
     "inputs, targets)\n\nWrite inputs, bytes, and targets, numbers of 64 bits, of masked rows."},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module)
{
    return PyModule_AddIntConstant(module, "VERSION", VERSION);
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill_module}, {0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_doc = "The kernel of plmscale.native.rows.",
    .m_methods = METHODS, .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__rows(void)
{
    return PyModuleDef_Init(&MODULE);
}
