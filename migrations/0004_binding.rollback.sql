drop table channel_binding_prompt;
