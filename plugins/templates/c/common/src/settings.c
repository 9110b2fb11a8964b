#include "settings.h"

#include "json.h"
#include "schema.h"

static text_t config;

static text_t keys(void) {
  text_t found = {0};
  json_get(text(schema), "properties", &found);
  return found;
}

static uint64_t bound(text_t rules, const char *name, uint64_t otherwise) {
  text_t value;
  uint64_t number;
  return json_get(rules, name, &value) && json_number(value, &number) ? number : otherwise;
}

// False with what is expected.
static bool check(text_t rules, text_t value, text_t *expected) {
  text_t type, string;
  bool is_text = json_get(rules, "type", &type) && same(type, text("\"string\""));
  uint64_t least = bound(rules, is_text ? "minLength" : "minimum", 0);
  uint64_t most = bound(rules, is_text ? "maxLength" : "maximum", UINT32_MAX);
  uint64_t found = 0;
  bool fits = is_text ? json_string(value, &string) : json_number(value, &found);
  if (fits && is_text) found = count_chars(string);
  if (fits && least <= found && found <= most) return true;
  put_words(expected, is_text ? "a text of " : "a whole number from ");
  put_number(expected, least);
  put_words(expected, " to ");
  put_number(expected, most);
  if (is_text) put_words(expected, " characters");
  return false;
}

static void put_known(text_t *out) {
  text_t at = keys(), key, rules;
  for (const char *gap = ""; json_next(&at, &key, &rules); gap = ", ") {
    put_words(out, gap);
    put_words(out, "\"");
    put(out, key);
    put_words(out, "\"");
  }
}

// Enough of a value to recognise it.
static text_t brief(text_t value) {
  while (count_chars(value) > 40) value.len--;
  return value;
}

bool settings_read(text_t json, text_t *err) {
  text_t at = json, key, value, rules;
  *err = (text_t){0};
  if (json.len == 0 || json.ptr[0] != '{') {
    put_words(err, "config: expected a JSON object");
    return false;
  }
  while (json_next(&at, &key, &value)) {
    text_t expected = {0}, at_key = keys(), known;
    bool found = false;
    while (!found && json_next(&at_key, &known, &rules)) found = same(known, key);
    if (found && check(rules, value, &expected)) continue;
    put_words(err, "config.");
    put(err, key);
    put_words(err, found ? ": found " : ": unknown key, expected one of ");
    if (found) {
      put(err, brief(value));
      put_words(err, ", expected ");
      put(err, expected);
    } else {
      put_known(err);
    }
    return false;
  }
  config = copy(json);
  return true;
}

static text_t setting(const char *key) {
  text_t value = {0}, rules;
  if (!json_get(config, key, &value) && json_get(keys(), key, &rules))
    json_get(rules, "default", &value);
  return value;
}

uint64_t settings_number(const char *key) {
  uint64_t number = 0;
  json_number(setting(key), &number);
  return number;
}

text_t settings_text(const char *key) {
  text_t string = {0};
  json_string(setting(key), &string);
  return string;
}
