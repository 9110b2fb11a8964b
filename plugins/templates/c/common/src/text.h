// Texts as the bindings have them: bytes of UTF-8 and a length, no zero at the end.

#pragma once
#include "{{world}}.h"

typedef {{world}}_string_t text_t;

// A text that is only looked at.
text_t text(const char *words);

// These append to a text that began as `(text_t){0}`.
void put(text_t *out, text_t more);
void put_words(text_t *out, const char *words);
void put_number(text_t *out, uint64_t number);

size_t count_chars(text_t text);
bool same(text_t left, text_t right);
bool starts_with(text_t text, text_t beginning);

// The text without its first bytes.
text_t after(text_t text, size_t bytes);

// Where `part` begins in `text`, or the length of `text` where it does not come.
size_t find(text_t text, text_t part);

// A copy; hands it over as an answer or an error.
text_t copy(text_t text);
