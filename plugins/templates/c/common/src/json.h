// Looks into JSON that the host has written, so it need not be told apart from nonsense.

#pragma once
#include "text.h"

// Steps through a table: `at` begins as the table itself. False at its end.
bool json_next(text_t *at, text_t *key, text_t *value);

// The value of `key` in `table`; false where it is missing.
bool json_get(text_t table, const char *key, text_t *value);

// False for anything but a whole number from 0 up.
bool json_number(text_t value, uint64_t *number);

// False for anything but a string.
bool json_string(text_t value, text_t *string);
