// Keeps the last messages that fit.

#include "hook.h"

#include "settings.h"

const char summary[] = "Keeps the last messages that fit";

static uint64_t most;

bool hook_configure(text_t *err) {
  (void)err;
  most = settings_number("messages");
  return true;
}

bool hook_self_test(text_t *err) {
  (void)err;
  return true;  // no value of messages can make it wrong
}

// Walks back from the newest message. That one and pinned ones stay, so they are paid for first.
bool exports_stent_policy_session_trimmer_trim(
    exports_stent_policy_session_trimmer_borrow_request_t req,
    exports_stent_policy_session_trimmer_budget_t *budget,
    exports_stent_policy_session_trimmer_borrow_transcript_t all,
    exports_stent_policy_session_trimmer_decision_t *ret, text_t *err) {
  (void)req, (void)err;
  stent_policy_request_list_message_t messages;
  stent_policy_request_method_transcript_messages(all, &messages);
  ret->tag = EXPORTS_STENT_POLICY_SESSION_TRIMMER_DECISION_KEEP_ALL;
  if (messages.len == 0) return true;

  const stent_policy_request_message_t *message = messages.ptr;
  size_t newest = messages.len - 1;
  uint64_t each = budget->per_message, cost = 0, kept = 1, first = message[newest].id;
  for (size_t at = 0; at <= newest; at++)
    if (message[at].pinned || at == newest) cost += message[at].tokens + each;
  for (size_t at = newest; at-- > 0 && kept < most;) {
    if (message[at].pinned) continue;
    cost += message[at].tokens + each;
    if (cost > budget->max_tokens) break;
    first = message[at].id;
    kept++;
  }
  ret->tag = EXPORTS_STENT_POLICY_SESSION_TRIMMER_DECISION_KEEP_FROM;
  ret->val.keep_from = first;
  return true;
}
