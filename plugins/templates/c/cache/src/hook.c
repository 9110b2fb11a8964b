// Answers a question that stands alone from memory, whatever its case, spacing and closing
// marks. In a conversation the whole prompt is the key.

#include "hook.h"

#include <stdlib.h>

#include "settings.h"

const char summary[] = "Answers the same question again from memory";

static uint64_t ttl_ms;

static bool is_one_of(uint8_t byte, const char *set) {
  return find(text(set), (text_t){&byte, 1}) < text(set).len;
}

static text_t normalise(text_t question) {
  text_t out = {0};
  for (size_t at = 0; at < question.len; at++) {
    uint8_t byte = question.ptr[at];
    bool blank = is_one_of(byte, " \t\n\f\r");
    if (blank && (out.len == 0 || out.ptr[out.len - 1] == ' ')) continue;
    if (byte >= 'A' && byte <= 'Z') byte += 'a' - 'A';
    if (blank) byte = ' ';
    put(&out, (text_t){&byte, 1});
  }
  while (out.len > 0 && is_one_of(out.ptr[out.len - 1], " .,;:!?")) out.len--;
  return out;
}

bool hook_configure(text_t *err) {
  (void)err;
  ttl_ms = 1000 * settings_number("ttl_seconds");
  return true;
}

bool hook_self_test(text_t *err) {
  if (same(normalise(text(" What  is asthma ?")), normalise(text("what is asthma")))) return true;
  *err = copy(text("self-test: two spellings of one question differ"));
  return false;
}

bool exports_stent_policy_cache_decide(exports_stent_policy_cache_borrow_request_t req,
                                       exports_stent_policy_cache_borrow_transcript_t all,
                                       exports_stent_policy_cache_lookup_t *ret, text_t *err) {
  (void)req, (void)err;
  stent_policy_request_list_message_t messages;
  stent_policy_request_method_transcript_messages(all, &messages);
  text_t question = {0}, asked;
  if (messages.len == 1 && messages.ptr[0].role == STENT_POLICY_TYPES_ROLE_USER &&
      stent_policy_request_method_transcript_text(all, messages.ptr[0].id, &asked))
    question = normalise(asked);

  ret->tag = EXPORTS_STENT_POLICY_CACHE_LOOKUP_BY;
  exports_stent_policy_cache_key_t *key = &ret->val.by;
  key->scope = STENT_POLICY_TYPES_SCOPE_SESSION;
  key->max_age_ms = ttl_ms;
  key->basis.tag = EXPORTS_STENT_POLICY_CACHE_BASIS_EXACT_PROMPT;
  if (question.len > 0) {
    text_t *part = malloc(sizeof *part);
    if (part == NULL) abort();
    *part = question;
    key->basis.tag = EXPORTS_STENT_POLICY_CACHE_BASIS_PARTS;
    key->basis.val.parts.ptr = part;
    key->basis.val.parts.len = 1;
  }
  return true;
}

// An answer that was cut off, filtered or empty is not worth repeating.
bool exports_stent_policy_cache_admit(exports_stent_policy_cache_borrow_request_t req,
                                      exports_stent_policy_cache_borrow_transcript_t all,
                                      exports_stent_policy_cache_borrow_answer_t answer,
                                      exports_stent_policy_cache_outcome_t *outcome,
                                      exports_stent_policy_cache_admission_t *ret, text_t *err) {
  (void)req, (void)all, (void)err;
  bool whole = outcome->finish == STENT_POLICY_TYPES_FINISH_STOP &&
               stent_policy_request_method_answer_bytes(answer) > 0;
  ret->tag = whole ? EXPORTS_STENT_POLICY_CACHE_ADMISSION_STORE
                   : EXPORTS_STENT_POLICY_CACHE_ADMISSION_SKIP;
  ret->val.store = ttl_ms;
  return true;
}
