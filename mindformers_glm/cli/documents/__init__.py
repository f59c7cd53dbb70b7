"""Commands of other projects' documents, as typed there: thin fronts over this suite. See docs/migration.md."""
