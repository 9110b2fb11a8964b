// The operator's table, read by config.schema.json: that file alone holds keys, defaults and
// ranges. It knows whole numbers and texts.

#pragma once
#include "text.h"

extern const char schema[];

// False with one sentence that names the key, what was found and what is expected.
bool settings_read(text_t json, text_t *err);

// What the operator wrote, or the default.
uint64_t settings_number(const char *key);
text_t settings_text(const char *key);
