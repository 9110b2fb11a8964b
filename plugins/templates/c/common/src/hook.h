// What hook.c is asked for beside its hook.

#pragma once
#include "text.h"

extern const char summary[];

// Takes the settings over. False with an error, as in `configure` and `self-test`.
bool hook_configure(text_t *err);
bool hook_self_test(text_t *err);
