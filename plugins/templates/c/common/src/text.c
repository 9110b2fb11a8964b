#include "text.h"

#include <stdlib.h>
#include <string.h>

text_t text(const char *words) { return (text_t){(uint8_t *)words, strlen(words)}; }

void put(text_t *out, text_t more) {
  if (more.len == 0) return;
  out->ptr = realloc(out->ptr, out->len + more.len);
  if (out->ptr == NULL) abort();
  memcpy(out->ptr + out->len, more.ptr, more.len);
  out->len += more.len;
}

void put_words(text_t *out, const char *words) { put(out, text(words)); }

void put_number(text_t *out, uint64_t number) {
  uint8_t digits[20];
  size_t at = sizeof digits;
  do digits[--at] = (uint8_t)('0' + number % 10);
  while (number /= 10);
  put(out, (text_t){digits + at, sizeof digits - at});
}

size_t count_chars(text_t text) {
  size_t count = 0;
  // All but the bytes that go on with a character.
  for (size_t at = 0; at < text.len; at++) count += (text.ptr[at] & 0xc0) != 0x80;
  return count;
}

bool same(text_t left, text_t right) {
  return left.len == right.len && memcmp(left.ptr, right.ptr, left.len) == 0;
}

bool starts_with(text_t text, text_t beginning) {
  return text.len >= beginning.len && memcmp(text.ptr, beginning.ptr, beginning.len) == 0;
}

text_t after(text_t text, size_t bytes) {
  return (text_t){text.ptr + bytes, text.len - bytes};
}

size_t find(text_t text, text_t part) {
  for (size_t at = 0; at + part.len <= text.len; at++)
    if (starts_with(after(text, at), part)) return at;
  return text.len;
}

text_t copy(text_t text) {
  text_t out = {0};
  put(&out, text);
  return out;
}
