// Replaces a word while the answer is produced, wherever a chunk ends.

#include "hook.h"

#include <stdlib.h>

#include "settings.h"

const char summary[] = "Replaces a word in answers";

static text_t word, replacement;

// The filter of one answer.
struct exports_stent_policy_output_filter_filter_t {
  text_t held;  // an end that may become the word
};
typedef exports_stent_policy_output_filter_filter_t filter_t;

// Takes a chunk, gives what may go out.
static text_t feed(filter_t *filter, text_t chunk) {
  text_t rest = filter->held, emitted = {0};
  put(&rest, chunk);
  for (size_t at; (at = find(rest, word)) < rest.len; rest = after(rest, at + word.len)) {
    put(&emitted, (text_t){rest.ptr, at});
    put(&emitted, replacement);
  }
  size_t begins = 0;
  while (!starts_with(word, after(rest, begins))) begins++;
  put(&emitted, (text_t){rest.ptr, begins});
  filter->held = copy(after(rest, begins));
  return emitted;
}

bool hook_configure(text_t *err) {
  (void)err;
  word = settings_text("word");
  replacement = settings_text("replacement");
  return true;
}

// The word itself, a byte at a time.
bool hook_self_test(text_t *err) {
  filter_t filter = {0};
  text_t emitted = {0};
  for (size_t at = 0; at < word.len; at++) put(&emitted, feed(&filter, (text_t){word.ptr + at, 1}));
  if (same(emitted, replacement) && filter.held.len == 0) return true;
  *err = copy(text("self-test: the word is not replaced across chunk borders"));
  return false;
}

bool exports_stent_policy_output_filter_static_filter_open(
    exports_stent_policy_output_filter_borrow_request_t req,
    exports_stent_policy_output_filter_own_filter_t *ret, text_t *err) {
  (void)req, (void)err;
  filter_t *filter = malloc(sizeof *filter);
  if (filter == NULL) abort();
  *filter = (filter_t){0};
  *ret = exports_stent_policy_output_filter_filter_new(filter);
  return true;
}

bool exports_stent_policy_output_filter_method_filter_push(
    filter_t *self, text_t *chunk, exports_stent_policy_output_filter_step_t *ret, text_t *err) {
  (void)err;
  ret->tag = EXPORTS_STENT_POLICY_OUTPUT_FILTER_STEP_EMIT;
  ret->val.emit = feed(self, *chunk);
  return true;
}

bool exports_stent_policy_output_filter_method_filter_finish(
    filter_t *self, exports_stent_policy_output_filter_finish_t why, text_t *ret, text_t *err) {
  (void)why, (void)err;
  *ret = self->held;
  return true;
}

void exports_stent_policy_output_filter_filter_destructor(filter_t *self) { free(self); }
