#include "json.h"

static uint8_t first(text_t text) { return text.len > 0 ? text.ptr[0] : 0; }

static bool is_blank(uint8_t byte) {
  return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static text_t skip_blank(text_t text) {
  while (is_blank(first(text))) text = after(text, 1);
  return text;
}

// Bytes of the string that `text` begins with, quotes included.
static size_t string_length(text_t text) {
  for (size_t at = 1; at < text.len; at++) {
    if (text.ptr[at] == '\\') at++;
    else if (text.ptr[at] == '"') return at + 1;
  }
  return text.len;
}

// Bytes of the value that `text` begins with.
static size_t value_length(text_t text) {
  size_t depth = 0, at = 0;
  while (at < text.len) {
    uint8_t byte = text.ptr[at];
    if (depth == 0 && at > 0 && (byte == ',' || byte == '}' || byte == ']' || is_blank(byte))) break;
    if (byte == '{' || byte == '[') depth++;
    if ((byte == '}' || byte == ']') && depth > 0) depth--;
    at += byte == '"' ? string_length(after(text, at)) : 1;
    if (depth == 0 && (byte == '}' || byte == ']' || byte == '"')) break;
  }
  return at;
}

bool json_next(text_t *at, text_t *key, text_t *value) {
  text_t rest = skip_blank(*at);
  // Behind the opening brace or a comma comes a key.
  if (first(rest) != '{' && first(rest) != ',') return false;
  rest = skip_blank(after(rest, 1));
  if (first(rest) != '"') return false;
  *key = (text_t){rest.ptr, string_length(rest)};
  rest = skip_blank(after(rest, key->len));
  if (first(rest) != ':') return false;
  rest = skip_blank(after(rest, 1));
  *value = (text_t){rest.ptr, value_length(rest)};
  *at = after(rest, value->len);
  return json_string(*key, key);
}

bool json_get(text_t table, const char *key, text_t *value) {
  text_t found;
  while (json_next(&table, &found, value))
    if (same(found, text(key))) return true;
  return false;
}

bool json_number(text_t value, uint64_t *number) {
  *number = 0;
  for (size_t at = 0; at < value.len; at++) {
    if (value.ptr[at] < '0' || value.ptr[at] > '9' || at == 18) return false;
    *number = *number * 10 + (value.ptr[at] - '0');
  }
  return value.len > 0;
}

static uint32_t hex(text_t digits) {
  uint32_t code = 0;
  for (size_t at = 0; at < 4 && at < digits.len; at++) {
    uint8_t byte = digits.ptr[at];
    code = code << 4 | (byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10u);
  }
  return code;
}

static void put_char(text_t *out, uint32_t code) {
  uint8_t bytes[4];
  size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t at = count; at-- > 1; code >>= 6) bytes[at] = 0x80 | (code & 0x3f);
  static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
  bytes[0] = lead[count] | (uint8_t)code;
  put(out, (text_t){bytes, count});
}

// Puts the character that `escape` stands for, and tells how many bytes that took.
static size_t put_escape(text_t *out, text_t escape) {
  static const char from[] = "nrtbf", to[] = "\n\r\t\b\f";
  if (first(escape) != 'u') {
    size_t at = find(text(from), (text_t){escape.ptr, 1});
    put(out, from[at] != 0 ? (text_t){(uint8_t *)to + at, 1} : (text_t){escape.ptr, 1});
    return 1;
  }
  uint32_t code = hex(after(escape, 1));
  bool pair = code >= 0xd800 && code < 0xdc00 && escape.len >= 11;
  if (pair) code = 0x10000 + ((code & 0x3ff) << 10) + (hex(after(escape, 7)) & 0x3ff);
  put_char(out, code);
  return pair ? 11 : 5;
}

bool json_string(text_t value, text_t *string) {
  if (first(value) != '"') return false;
  text_t rest = {value.ptr + 1, value.len - 2}, out = {0};
  while (rest.len > 0) {
    size_t plain = find(rest, text("\\"));
    put(&out, (text_t){rest.ptr, plain});
    rest = after(rest, plain);
    if (rest.len > 1) rest = after(rest, 1 + put_escape(&out, after(rest, 1)));
  }
  *string = out;
  return true;
}
