// Mistral's [INST] format with a system text:
//
//     <s>[INST]system text, question[/INST]answer</s>[INST]next question[/INST]

#include "hook.h"

#include <stdlib.h>

#include "settings.h"

typedef exports_stent_policy_prompt_builder_piece_t piece_t;
typedef exports_stent_policy_prompt_builder_list_piece_t pieces_t;

const char summary[] = "Mistral's [INST] format with a system text";

static const char OPEN[] = "[INST]", CLOSE[] = "[/INST]", JOIN[] = "\n\n";

// Ends with JOIN unless it is empty.
static text_t system_text;
static uint32_t fixed, per_message;

static uint32_t count(text_t text) { return stent_policy_host_count_tokens(&text); }

static uint32_t larger(uint32_t left, uint32_t right) { return left > right ? left : right; }

// Counts tokens here, ahead of requests, and not in declare, which users wait for.
bool hook_configure(text_t *err) {
  text_t words = settings_text("system");
  const char *marks[] = {OPEN, CLOSE};
  for (size_t at = 0; at < 2; at++) {
    if (find(words, text(marks[at])) == words.len) continue;
    *err = copy(text("config.system: found "));
    put_words(err, marks[at]);
    put_words(err, ", expected text without it");
    return false;
  }
  if (words.len > 0) put_words(&words, JOIN);
  system_text = words;
  // <s> and </s> are one token each.
  uint32_t open = 1 + count(text(OPEN)), close = count(text(CLOSE));
  fixed = open + count(system_text) + close;
  per_message = larger(larger(open, close), count(text(JOIN)));
  return true;
}

bool hook_self_test(text_t *err) {
  if (per_message >= 2) return true;
  *err = copy(text("self-test: the host counts no tokens in the marks of the layout"));
  return false;
}

void exports_stent_policy_prompt_builder_declare(
    exports_stent_policy_prompt_builder_borrow_request_t req,
    exports_stent_policy_prompt_builder_layout_t *ret) {
  (void)req;
  text_t *reserved = malloc(2 * sizeof *reserved);
  if (reserved == NULL) abort();
  reserved[0] = copy(text(OPEN));
  reserved[1] = copy(text(CLOSE));
  *ret = (exports_stent_policy_prompt_builder_layout_t){fixed, per_message, {reserved, 2}};
}

static void put_piece(pieces_t *out, piece_t piece) {
  out->ptr = realloc(out->ptr, (out->len + 1) * sizeof piece);
  if (out->ptr == NULL) abort();
  out->ptr[out->len++] = piece;
}

static piece_t control(const char *marks) {
  return (piece_t){EXPORTS_STENT_POLICY_PROMPT_BUILDER_PIECE_CONTROL, {copy(text(marks))}};
}

static piece_t own(text_t words) {
  return (piece_t){EXPORTS_STENT_POLICY_PROMPT_BUILDER_PIECE_TEXT, {copy(words)}};
}

static piece_t message(uint64_t id) {
  return (piece_t){EXPORTS_STENT_POLICY_PROMPT_BUILDER_PIECE_MESSAGE, {.message = id}};
}

// Neighbours of one side are joined; all but the assistant's messages are on the asking side.
bool exports_stent_policy_prompt_builder_build(
    exports_stent_policy_prompt_builder_borrow_request_t req,
    exports_stent_policy_prompt_builder_borrow_transcript_t kept,
    exports_stent_policy_prompt_builder_plan_t *ret, text_t *err) {
  (void)req;
  stent_policy_request_list_message_t messages;
  stent_policy_request_method_transcript_messages(kept, &messages);
  enum { NOBODY, ASKS, ANSWERS } before = NOBODY;
  pieces_t pieces = {0};
  put_piece(&pieces, control("<s>[INST]"));
  if (system_text.len > 0) put_piece(&pieces, own(system_text));
  for (size_t at = 0; at < messages.len; at++) {
    bool answers = messages.ptr[at].role == STENT_POLICY_TYPES_ROLE_ASSISTANT;
    if (before == (answers ? ANSWERS : ASKS)) put_piece(&pieces, own(text(JOIN)));
    else if (answers) put_piece(&pieces, control(CLOSE));
    else if (before == ANSWERS) put_piece(&pieces, control("</s>[INST]"));
    put_piece(&pieces, message(messages.ptr[at].id));
    before = answers ? ANSWERS : ASKS;
  }
  if (before != ASKS) {
    *err = copy(text("the last message is not a question"));
    return false;
  }
  put_piece(&pieces, control(CLOSE));
  // The next turn goes on behind the last [/INST], with this turn's answer.
  *ret = (exports_stent_policy_prompt_builder_plan_t){pieces, pieces.len, {0}};
  return true;
}
