// What every component exports. What this policy decides is in hook.c.

#include "hook.h"
#include "settings.h"

void exports_stent_policy_policy_describe(exports_stent_policy_policy_descriptor_t *ret) {
  ret->name = copy(text("{{name}}"));
  ret->version = copy(text("0.1.0"));
  ret->summary = copy(text(summary));
  ret->config_schema = ({{world}}_option_string_t){true, copy(text(schema))};
}

bool exports_stent_policy_policy_configure(text_t *config_json, text_t *err) {
  return settings_read(*config_json, err) && hook_configure(err);
}

bool exports_stent_policy_policy_self_test(text_t *err) { return hook_self_test(err); }
