-- ARGV: fingerprint.
if not r then
  return {'absent'}
end
return told(ARGV[3])
