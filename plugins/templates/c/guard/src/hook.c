// Refuses messages that are too long.

#include "hook.h"

#include "settings.h"

const char summary[] = "Refuses messages that are too long";

static uint64_t max_chars;

bool hook_configure(text_t *err) {
  (void)err;
  max_chars = settings_number("max_chars");
  return true;
}

bool hook_self_test(text_t *err) {
  (void)err;
  return true;  // no value of max_chars can make it wrong
}

bool exports_stent_policy_guard_check(exports_stent_policy_guard_borrow_request_t req,
                                      exports_stent_policy_guard_borrow_transcript_t all,
                                      exports_stent_policy_guard_verdict_t *ret, text_t *err) {
  (void)req;
  stent_policy_request_list_message_t messages;
  stent_policy_request_method_transcript_messages(all, &messages);
  text_t newest;
  if (messages.len == 0 || !stent_policy_request_method_transcript_text(
                               all, messages.ptr[messages.len - 1].id, &newest)) {
    *err = copy(text("the transcript is empty"));
    return false;
  }
  size_t found = count_chars(newest);
  ret->tag = EXPORTS_STENT_POLICY_GUARD_VERDICT_ALLOW;
  if (found > max_chars) {
    text_t reason = {0};
    put_words(&reason, "Your message has ");
    put_number(&reason, found);
    put_words(&reason, " characters, at most ");
    put_number(&reason, max_chars);
    put_words(&reason, " are read. Please shorten it.");
    ret->tag = EXPORTS_STENT_POLICY_GUARD_VERDICT_REFUSE;
    ret->val.refuse = reason;
  }
  return true;
}
