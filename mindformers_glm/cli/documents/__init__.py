"""Commands of other projects' documents, as typed there: thin fronts over what this suite has. See docs/migration.md."""
